import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { step } from "../../src/domain/lifecycle.ts";
import type { ManagedSpec, RestartPolicy } from "../../src/domain/service.ts";
import { parseServiceSpec } from "../../src/domain/service-spec.ts";
import { blankStatus, liveStates, type ServiceStatus } from "../../src/domain/status.ts";
import type { Effect, Ending, Input, Step, Want } from "../../src/domain/step.ts";

const start = new Date("2026-01-01T00:00:00Z");

function managed(restartPolicy: Partial<RestartPolicy> = {}): ManagedSpec {
  const input = { kind: { type: "managed" as const, command: ["true"], restartPolicy } };
  const { kind } = parseServiceSpec("web", input, { forbidden: [], field: "spec" }).spec;
  if (kind.type !== "managed") throw new Error("it is managed");
  return kind;
}

const pending: ServiceStatus = { ...blankStatus, state: "pending", transitionTime: start };

function exitOf(code: number): Ending {
  return { reason: "exited", code, signal: undefined, message: "", time: start };
}

/** A service whose time is ours. */
class Story {
  status = pending;
  want: Want;
  protected nowMs = start.getTime();
  readonly random: number;

  constructor(policy: Partial<RestartPolicy> = {}, random = 0) {
    this.want = { wish: "running", generation: 1, resets: 0, spec: managed(policy), waitingFor: [] };
    this.random = random;
  }

  then(input: Input, afterMs = 0): Step {
    this.nowMs += afterMs;
    const next = step(this.status, input, this.want, { now: new Date(this.nowMs), random: this.random });
    this.status = next.status;
    return next;
  }

  run(url?: string): this {
    this.then({ kind: "launching", instanceId: "i", url, unenforced: "" });
    this.then({ kind: "launched", instanceId: "i", pid: 7 });
    return this;
  }

  ready(afterMs = 0): this {
    this.then({ kind: "ready", instanceId: "i" }, afterMs);
    return this;
  }

  crash(afterMs = 0): Step {
    return this.then({ kind: "exited", instanceId: "i", exit: exitOf(1) }, afterMs);
  }

  wish(wish: Want["wish"], generation = this.want.generation): Step {
    this.want = { ...this.want, wish, generation };
    return this.then({ kind: "look" });
  }

  delayMs(): number {
    return (this.status.nextStartTime?.getTime() ?? 0) - this.nowMs;
  }
}

const launch: Effect = { kind: "launch" };

function typesOf({ events }: Step): string[] {
  return events.map(({ body }) => body.type);
}

describe("a managed service", () => {
  test("is launched when it is wished running, and asked for again until it is", () => {
    const story = new Story();

    expect(story.then({ kind: "look" }).effects).toEqual([launch]);
    expect(story.then({ kind: "look" }).effects).toEqual([launch]);
    expect(story.run().then({ kind: "look" }).effects).toEqual([]);
  });

  test("that is wished stopped before it ever ran is stopped", () => {
    const story = new Story();

    expect(typesOf(story.wish("stopped"))).toEqual(["service_stopped"]);
    expect(story.wish("stopped")).toEqual({ status: story.status, events: [], effects: [] });
  });

  test("tells each stage of its life", () => {
    const story = new Story();

    expect(typesOf(story.then({ kind: "launching", instanceId: "i", url: undefined, unenforced: "" }))).toEqual([
      "instance_starting",
    ]);
    expect(typesOf(story.then({ kind: "launched", instanceId: "i", pid: 7 }))).toEqual(["instance_started"]);
    expect(typesOf(story.then({ kind: "ready", instanceId: "i" }))).toEqual(["instance_ready"]);
    expect(typesOf(story.then({ kind: "unready", instanceId: "i", message: "silence" }))).toEqual(["instance_unready"]);
    expect(story.status).toMatchObject({ state: "running", ready: false, reason: "UNREADY", published: true });
    expect(typesOf(story.then({ kind: "ready", instanceId: "i" }))).toEqual(["instance_ready"]);
    expect(typesOf(story.crash())).toEqual(["instance_exited", "restart_scheduled"]);
  });

  test("starts at the time that its back-off names, and not before", () => {
    const story = new Story().run();
    const { effects } = story.crash();
    const nextStartTime = new Date(start.getTime() + 1_000);

    expect(effects).toEqual([{ kind: "wake", at: nextStartTime }]);
    expect(story.then({ kind: "look" }, 999).effects).toEqual([{ kind: "wake", at: nextStartTime }]);
    expect(story.then({ kind: "look" }, 1).effects).toEqual([launch]);
  });

  test("starts when its delay is over, although the wall clock was put back meanwhile", () => {
    const story = new Story().run();
    story.crash();

    expect(story.then({ kind: "due" }, -3_600_000).effects).toEqual([launch]);
  });

  test("counts the restarts since a client last changed its wish", () => {
    const story = new Story().run();
    story.crash();
    story.run();
    story.crash();
    story.run();
    expect(story.status).toMatchObject({ restarts: 2, failures: 2 });

    story.wish("running", 2);
    story.then({ kind: "exited", instanceId: "i", exit: exitOf(0) });
    story.run();

    expect(story.status).toMatchObject({ restarts: 0, failures: 0, recentFailures: [], observedGeneration: 2 });
  });

  test("is completed by code 0 where its policy restarts on failure only, and rests until somebody asks again", () => {
    const story = new Story({ mode: "on_failure" }).run().ready();

    expect(typesOf(story.then({ kind: "exited", instanceId: "i", exit: exitOf(0) }))).toEqual([
      "instance_exited",
      "service_completed",
    ]);
    expect(story.status).toMatchObject({ state: "completed", published: false });
    expect(story.then({ kind: "look" }).effects).toEqual([]);
    expect(story.wish("running", 2).effects).toEqual([launch]);
  });

  test("fails with its first bad exit where its policy never restarts", () => {
    const story = new Story({ mode: "never" }).run();

    expect(typesOf(story.crash())).toEqual(["instance_exited", "service_failed"]);
    expect(story.status).toMatchObject({ state: "failed", reason: "EXITED", message: "exited with code 1" });
  });

  test("gives up after its greatest number of restarts in a row, until somebody asks again", () => {
    const story = new Story({ maxRestarts: 2 });
    for (let round = 0; round < 3; round++) story.run().crash();
    expect(story.status).toMatchObject({ state: "failed", reason: "MAX_RESTARTS", restarts: 2 });
    expect(story.then({ kind: "look" }).effects).toEqual([]);

    expect(story.wish("running", 2).effects).toEqual([launch]);
  });

  test("is stopped, route first, when that is wished, and its end is no failure", () => {
    const story = new Story().run().ready();
    const { effects } = story.wish("stopped");
    expect(story.status).toMatchObject({ state: "stopping", published: false });

    expect(effects).toEqual([{ kind: "stop", instanceId: "i", routeFirst: true }]);
    expect(typesOf(story.crash())).toEqual(["instance_exited", "service_stopped"]);
    expect(story.status).toMatchObject({ state: "stopped", failures: 0, lastExit: { requested: true } });
  });

  test("that is wished running while it stops ends first and starts anew, without a delay", () => {
    const story = new Story().run();
    story.wish("stopped");

    expect(story.wish("running", 2).effects).toEqual([]);
    expect(story.crash().effects).toEqual([launch]);
    expect(story.status.failures).toBe(0);
  });

  test("that is wished stopped while it waits for its next start is stopped at once", () => {
    const story = new Story().run();
    story.crash();

    expect(typesOf(story.wish("stopped"))).toEqual(["service_stopped"]);
    expect(story.status.nextStartTime).toBeUndefined();
  });

  test("that a client starts while it waits for its next start is launched at once", () => {
    const story = new Story().run();
    story.crash();

    expect(story.wish("running", 2).effects).toEqual([launch]);
  });

  test("is stopped and started anew for a newer generation, and keeps its route meanwhile", () => {
    const story = new Story().run("http://127.0.0.1:1").ready();

    expect(story.wish("running", 2).effects).toEqual([{ kind: "stop", instanceId: "i", routeFirst: false }]);
    expect(story.then({ kind: "exited", instanceId: "i", exit: exitOf(0) }).effects).toEqual([launch]);
    expect(story.run("http://127.0.0.1:1").status.published).toBe(true);
  });

  test("that moves to another address has no route there before it is ready", () => {
    const story = new Story().run("http://127.0.0.1:1").ready();
    story.wish("running", 2);
    story.then({ kind: "exited", instanceId: "i", exit: exitOf(0) });

    expect(story.run("http://127.0.0.1:2").status.published).toBe(false);
    expect(story.ready().status.published).toBe(true);
  });

  test("keeps its route over a crash, and loses it when nothing is going to run", () => {
    const always = new Story().run().ready();
    always.crash();
    const never = new Story({ mode: "never" }).run().ready();
    never.crash();

    expect([always.status.published, never.status.published]).toEqual([true, false]);
  });

  test("that is not ready in time is stopped and counts as a failure, even if it then leaves with code 0", () => {
    const story = new Story({ mode: "on_failure" }).run();
    const { effects } = story.then({ kind: "readiness_missed", instanceId: "i", message: "silence" });
    expect(effects).toEqual([{ kind: "stop", instanceId: "i", routeFirst: false }]);

    story.then({ kind: "exited", instanceId: "i", exit: exitOf(0) });

    expect(story.status).toMatchObject({
      state: "backing_off",
      reason: "READINESS_TIMEOUT",
      message: "silence",
      failures: 1,
      lastExit: { requested: true },
    });
  });

  test.each(["starting", "running"])(
    "whose liveness fails while it is %s is stopped and counts as a failure",
    (state) => {
      const story = new Story().run();
      if (state === "running") story.ready();
      const { effects } = story.then({ kind: "liveness_failed", instanceId: "i", message: "stuck" });
      expect(effects).toEqual([{ kind: "stop", instanceId: "i", routeFirst: false }]);

      story.then({ kind: "exited", instanceId: "i", exit: exitOf(0) });

      expect(story.status).toMatchObject({
        state: "backing_off",
        reason: "LIVENESS_FAILED",
        message: "stuck",
        failures: 1,
      });
    },
  );

  test("that has started and is not ready goes on, however often that is told", () => {
    const story = new Story().run();

    const { effects, events } = story.then({ kind: "unready", instanceId: "i", message: "silence" });

    expect({ effects, events }).toEqual({ effects: [], events: [] });
    expect(story.status.state).toBe("starting");
  });

  test("that cannot be ended says so, starts nothing, and is tried again", () => {
    const story = new Story().run();
    story.wish("stopped");

    const failed = story.then({ kind: "stop_failed", instanceId: "i", survivors: [7] });
    expect(typesOf(failed)).toEqual(["service_stop_failed"]);
    expect(failed.effects).toEqual([{ kind: "wake", at: new Date(start.getTime() + 30_000) }]);
    expect(story.wish("running", 2).effects).toEqual([]);
    expect(story.then({ kind: "due" }).effects).toEqual([{ kind: "stop", instanceId: "i", routeFirst: false }]);
    expect(typesOf(story.then({ kind: "stop_failed", instanceId: "i", survivors: [7] }))).toEqual([]);
    expect(story.crash().effects).toEqual([launch]);
  });

  test("is launched again without a failure when the server ended before its command ran, whatever its policy", () => {
    const story = new Story({ mode: "never" });
    story.then({ kind: "launching", instanceId: "i", url: undefined, unenforced: "" });

    const { effects } = story.then({
      kind: "never_ran",
      instanceId: "i",
      exit: { ...exitOf(0), reason: "spawn_failed", code: undefined },
    });

    expect(effects).toEqual([launch]);
    expect(story.run().status).toMatchObject({ restarts: 0, failures: 0 });
  });

  test("goes on as it was when it is adopted", () => {
    const story = new Story().run().ready();
    const { readyTime } = story.status;

    expect(typesOf(story.then({ kind: "adopted", instanceId: "i", pid: 7 }))).toEqual(["instance_adopted"]);
    expect(story.status).toMatchObject({ state: "running", ready: true, pid: 7, readyTime });
  });

  test("that was wished stopped while no server ran is stopped when it is adopted", () => {
    const story = new Story().run();
    story.want = { ...story.want, wish: "stopped" };

    const adopted = story.then({ kind: "adopted", instanceId: "i", pid: 7 });

    expect(typesOf(adopted)).toEqual(["instance_adopted", "instance_stopping"]);
    expect(adopted.effects).toEqual([{ kind: "stop", instanceId: "i", routeFirst: true }]);
  });
});

type Happening =
  | "crash"
  | "leave"
  | "ready"
  | "unready"
  | "missed"
  | "wait"
  | "start"
  | "stop"
  | "restart"
  | "stop done"
  | "stop failed"
  | "cannot start"
  | "server dies"
  | "server dies at the gate";

const happening: fc.Arbitrary<Happening> = fc.constantFrom(
  "crash",
  "leave",
  "ready",
  "unready",
  "missed",
  "wait",
  "start",
  "stop",
  "restart",
  "stop done",
  "stop failed",
  "cannot start",
  "server dies",
  "server dies at the gate",
);

/** A runner and its processes in small: it carries out effects, and whatever the world does in between. */
class World extends Story {
  alive = 0;
  most = 0;
  launches = 0;
  expectedRestarts = 0;
  #stopping = false;
  #wakeAtMs: number | undefined;
  #mayStart = true;

  meet(happening: Happening): void {
    const { alive } = this;
    switch (happening) {
      case "crash":
      case "leave":
        return alive > 0 ? this.#end(happening === "crash" ? 1 : 0) : undefined;
      case "ready":
        return alive > 0 && !this.#stopping ? this.carry({ kind: "ready", instanceId: "i" }) : undefined;
      case "unready":
        return alive > 0 && !this.#stopping ? this.carry({ kind: "unready", instanceId: "i", message: "" }) : undefined;
      case "missed":
        return alive > 0 && !this.#stopping
          ? this.carry({ kind: "readiness_missed", instanceId: "i", message: "" })
          : undefined;
      case "wait":
        return this.pass(100_000);
      case "start":
      case "restart":
        this.want = { ...this.want, wish: "running", generation: this.want.generation + 1 };
        return this.carry({ kind: "look" });
      case "stop":
        this.want = { ...this.want, wish: "stopped" };
        return this.carry({ kind: "look" });
      case "stop done":
        return this.#stopping ? this.#end(143) : undefined;
      case "stop failed":
        if (!this.#stopping) return undefined;
        this.#stopping = false;
        return this.carry({ kind: "stop_failed", instanceId: "i", survivors: [7] });
      case "cannot start":
        this.#mayStart = false;
        this.carry({ kind: "look" });
        this.#mayStart = true;
        return undefined;
      case "server dies":
        return this.#takeOver();
      case "server dies at the gate":
        return this.#dieAtTheGate();
    }
  }

  /** Time goes by; a timer that was armed fires. */
  pass(ms: number): void {
    this.nowMs += ms;
    const due = this.#wakeAtMs !== undefined && this.#wakeAtMs <= this.nowMs;
    if (due) this.#wakeAtMs = undefined;
    this.carry({ kind: due ? "due" : "look" });
  }

  /** Nothing more happens from outside, and what was begun comes to its end. */
  settle(): void {
    for (let round = 0; round < 6; round++) {
      if (this.#stopping) this.#end(143);
      this.pass(100_000);
    }
  }

  carry(input: Input): void {
    for (const effect of this.then(input).effects) {
      switch (effect.kind) {
        case "stop":
          this.#stopping = true;
          break;
        case "wake":
          this.#wakeAtMs = effect.at.getTime();
          break;
        case "launch":
          this.#launch();
          break;
        case "retire":
          throw new Error("nothing is updated rolling here");
      }
    }
  }

  #launch(): void {
    this.#wakeAtMs = undefined;
    const fresh = this.want.generation > this.status.observedGeneration;
    const again = this.status.state === "backing_off" || this.status.state === "crash_loop";
    this.expectedRestarts = fresh ? 0 : this.expectedRestarts + (again ? 1 : 0);
    this.launches++;
    this.then({ kind: "launching", instanceId: "i", url: undefined, unenforced: "" });
    if (!this.#mayStart) {
      return this.carry({
        kind: "exited",
        instanceId: "i",
        exit: { ...exitOf(0), reason: "spawn_failed", code: undefined },
      });
    }
    this.alive++;
    this.most = Math.max(this.most, this.alive);
    this.carry({ kind: "launched", instanceId: "i", pid: this.launches });
  }

  #end(code: number): void {
    this.alive--;
    this.#stopping = false;
    this.carry({ kind: "exited", instanceId: "i", exit: exitOf(code) });
  }

  /** A new server knows the status and nothing else; what lives is adopted, a stop that was begun is begun again. */
  #takeOver(): void {
    this.#wakeAtMs = undefined;
    this.#stopping = false;
    if (this.alive > 0) {
      this.carry({ kind: "adopted", instanceId: "i", pid: this.launches });
      this.#stopping ||= this.status.state === "stopping" || this.status.state === "stop_failed";
    }
    this.carry({ kind: "look" });
  }

  #dieAtTheGate(): void {
    const { effects } = this.then({ kind: "look" });
    if (!effects.some(({ kind }) => kind === "launch")) return this.#takeOver();
    this.expectedRestarts =
      this.want.generation > this.status.observedGeneration
        ? 0
        : this.expectedRestarts + (["backing_off", "crash_loop"].includes(this.status.state) ? 1 : 0);
    this.then({ kind: "launching", instanceId: "i", url: undefined, unenforced: "" });
    this.carry({ kind: "never_ran", instanceId: "i", exit: { ...exitOf(0), reason: "spawn_failed", code: undefined } });
  }
}

const policies = fc.record({
  mode: fc.constantFrom("always", "on_failure", "never"),
  maxRestarts: fc.option(fc.nat(6), { nil: undefined }),
}) satisfies fc.Arbitrary<Partial<RestartPolicy>>;

describe("whatever happens", () => {
  const runs = { numRuns: 2_000 };

  test("a service never has two processes alive, and one where its state says that one may live", () => {
    fc.assert(
      fc.property(policies, fc.array(happening, { maxLength: 60 }), (policy, happenings) => {
        const world = new World(policy);
        for (const each of happenings) {
          world.meet(each);

          expect(world.most).toBeLessThanOrEqual(1);
          expect(liveStates.has(world.status.state)).toBe(world.alive === 1);
        }
      }),
      runs,
    );
  });

  test("once nothing more happens the service is as wished, for the newest generation", () => {
    fc.assert(
      fc.property(fc.array(happening, { maxLength: 60 }), (happenings) => {
        const world = new World();
        for (const each of happenings) world.meet(each);
        world.settle();

        const isRunning = world.want.wish === "running";
        expect(world.alive).toBe(isRunning ? 1 : 0);
        expect(world.status.state === "stopped").toBe(!isRunning);
        if (isRunning) expect(world.status.observedGeneration).toBe(world.want.generation);
      }),
      runs,
    );
  });

  test("restarts are counted right", () => {
    fc.assert(
      fc.property(policies, fc.array(happening, { maxLength: 60 }), (policy, happenings) => {
        const world = new World(policy);
        for (const each of happenings) {
          world.meet(each);

          expect(world.status.restarts).toBe(world.expectedRestarts);
        }
      }),
      runs,
    );
  });

  test("looking again changes nothing and asks for nothing new", () => {
    fc.assert(
      fc.property(policies, fc.array(happening, { maxLength: 40 }), (policy, happenings) => {
        const world = new World(policy);
        for (const each of happenings) world.meet(each);
        world.pass(0);
        const { status } = world;

        const again = world.then({ kind: "look" });

        expect(again.status).toBe(status);
        expect(again.events).toEqual([]);
        expect(again.effects.filter(({ kind }) => kind !== "wake")).toEqual([]);
      }),
      runs,
    );
  });

  test("a route is only wanted while a process has been ready and more is to come", () => {
    fc.assert(
      fc.property(policies, fc.array(happening, { maxLength: 60 }), (policy, happenings) => {
        const world = new World(policy);
        for (const each of happenings) {
          world.meet(each);
          const { state, published, ready } = world.status;

          if (ready) expect(published).toBe(true);
          if (["stopped", "completed", "failed", "stop_failed"].includes(state)) expect(published).toBe(false);
        }
      }),
      runs,
    );
  });
});
