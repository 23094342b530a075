import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Waiting } from "../../src/domain/dependency.ts";
import { step } from "../../src/domain/lifecycle.ts";
import type { ManagedSpec } from "../../src/domain/service.ts";
import { parseServiceSpec } from "../../src/domain/service-spec.ts";
import { blankStatus, type ServiceStatus } from "../../src/domain/status.ts";
import type { Effect, Ending, Input, Step, Want } from "../../src/domain/step.ts";

const start = new Date("2026-01-01T00:00:00Z");

function rolling(updateStrategy: ManagedSpec["updateStrategy"] = "rolling"): ManagedSpec {
  const kind = { type: "managed" as const, command: ["true"], updateStrategy };
  const parsed = parseServiceSpec("web", { kind, url: "http://127.0.0.1:0" }, { forbidden: [], field: "spec" });
  if (parsed.spec.kind.type !== "managed") throw new Error("it is managed");
  return parsed.spec.kind;
}

const exit: Ending = { reason: "exited", code: 1, signal: undefined, message: "", time: start };

/** A service whose instances are named in the order of their starts: i1, i2, ... */
class Story {
  status: ServiceStatus = { ...blankStatus, state: "pending", transitionTime: start };
  want: Want = { wish: "running", generation: 1, resets: 0, spec: rolling(), waitingFor: [] };
  launches = 0;
  nowMs = start.getTime();

  then(input: Input): Step {
    const next = step(this.status, input, this.want, { now: new Date(this.nowMs), random: 0 });
    this.status = next.status;
    return next;
  }

  launch(): string {
    this.launches++;
    const instanceId = `i${this.launches}`;
    this.then({ kind: "launching", instanceId, url: `http://127.0.0.1:${this.launches}`, unenforced: "" });
    this.then({ kind: "launched", instanceId, pid: this.launches });
    return instanceId;
  }

  ready(instanceId: string): Step {
    return this.then({ kind: "ready", instanceId });
  }

  exit(instanceId: string): Step {
    return this.then({ kind: "exited", instanceId, exit });
  }

  change(generation = this.want.generation + 1): Step {
    this.want = { ...this.want, generation };
    return this.then({ kind: "look" });
  }

  wish(wish: Want["wish"]): Step {
    this.want = { ...this.want, wish };
    return this.then({ kind: "look" });
  }
}

/** One that runs its first generation. */
function running(): Story {
  const story = new Story();
  story.ready(story.launch());
  return story;
}

/** One whose second generation starts beside the first. */
function updating(): Story {
  const story = running();
  story.change();
  story.launch();
  return story;
}

const typesOf = ({ events }: Step) => events.map(({ body }) => body.type);
const stop = (instanceId: string, routeFirst = false): Effect => ({ kind: "stop", instanceId, routeFirst });

describe("a rolling update", () => {
  test("starts the new instance beside the old one, which goes on", () => {
    const story = running();

    expect(story.change().effects).toEqual([{ kind: "launch" }]);
    story.launch();

    expect(story.status).toMatchObject({ state: "running", ready: true, instanceId: "i1", reason: "ROLLING" });
    expect(story.status.replacement).toMatchObject({ instanceId: "i2", generation: 2, url: "http://127.0.0.1:2" });
    expect(story.then({ kind: "look" }).effects).toEqual([]);
  });

  test("hands over once the new instance is ready, and retires the old one", () => {
    const story = updating();

    const promoted = story.ready("i2");

    expect(typesOf(promoted)).toEqual(["instance_ready", "instance_promoted"]);
    expect(promoted.effects).toEqual([{ kind: "retire", instanceId: "i1" }]);
    expect(story.status).toMatchObject({
      ...{ state: "running", ready: true, instanceId: "i2", observedGeneration: 2, published: true },
      ...{ url: "http://127.0.0.1:2", replacement: undefined, retiring: { instanceId: "i1" }, reason: "" },
    });
    expect(typesOf(story.exit("i1"))).toEqual(["instance_exited"]);
    expect(story.status.retiring).toBeUndefined();
  });

  test("that does not become ready leaves the old instance and says so until the next change", () => {
    const story = updating();

    const missed = story.then({ kind: "readiness_missed", instanceId: "i2", message: "silence" });
    expect(missed.effects).toEqual([stop("i2")]);
    expect(typesOf(story.exit("i2"))).toEqual(["instance_exited", "update_failed"]);

    expect(story.status).toMatchObject({ state: "running", ready: true, instanceId: "i1", failedGeneration: 2 });
    expect(story.status.conditions).toMatchObject([{ type: "update_failed" }]);
    expect(story.then({ kind: "look" }).effects).toEqual([]);
    expect(story.change().effects).toEqual([{ kind: "launch" }]);
    story.launch();
    expect(story.status.conditions).toEqual([]);
  });

  test.each(["unready", "liveness_failed"] as const)(
    "whose new instance is %s before it took over fails too",
    (kind) => {
      const story = updating();

      expect(story.then({ kind, instanceId: "i2", message: "silence" }).effects).toEqual([stop("i2")]);
      expect(typesOf(story.exit("i2"))).toEqual(["instance_exited", "update_failed"]);
      expect(story.status).toMatchObject({ state: "running", ready: true, instanceId: "i1", failedGeneration: 2 });
    },
  );

  test("whose new instance crashes before it is ready fails too", () => {
    const story = updating();

    expect(typesOf(story.exit("i2"))).toEqual(["instance_exited", "update_failed"]);
    expect(story.status).toMatchObject({ state: "running", instanceId: "i1", failedGeneration: 2 });
  });

  test("gives way to a newer change", () => {
    const story = updating();

    expect(story.change().effects).toEqual([stop("i2")]);
    const ended = story.exit("i2");

    expect(typesOf(ended)).toEqual(["instance_exited"]);
    expect(ended.effects).toEqual([{ kind: "launch" }]);
    expect(story.status.failedGeneration).toBe(0);
  });

  test("goes on with the new instance alone when the old one crashes meanwhile", () => {
    const story = updating();

    expect(typesOf(story.exit("i1"))).toEqual(["instance_exited"]);
    expect(story.status).toMatchObject({
      ...{ state: "starting", ready: false, instanceId: "i2", observedGeneration: 2, published: false },
      replacement: undefined,
    });
    expect(typesOf(story.ready("i2"))).toEqual(["instance_ready"]);
  });

  test("is ended whole by a stop, which is told when nothing is left", () => {
    const story = updating();

    expect(story.wish("stopped").effects).toEqual([stop("i1", true), stop("i2")]);
    expect(typesOf(story.exit("i1"))).toEqual(["instance_exited"]);
    expect(story.status.state).toBe("stopping");
    expect(typesOf(story.exit("i2"))).toEqual(["instance_exited", "service_stopped"]);
  });

  test("waits for the one before to leave", () => {
    const story = updating();
    story.ready("i2");

    expect(story.change().effects).toEqual([]);
    expect(story.exit("i1").effects).toEqual([{ kind: "launch" }]);
  });

  test("is taken up again by the next server", () => {
    const story = updating();

    expect(story.then({ kind: "adopted", instanceId: "i1", pid: 1 }).effects).toEqual([]);
    expect(story.then({ kind: "adopted", instanceId: "i2", pid: 2 }).effects).toEqual([]);
    story.ready("i2");
    expect(story.then({ kind: "adopted", instanceId: "i1", pid: 1 }).effects).toEqual([
      { kind: "retire", instanceId: "i1" },
    ]);
  });

  test("that was given up is ended by the next server, also while the service waits for something else", () => {
    const story = updating();
    story.change();
    story.want = { ...story.want, waitingFor: [{ service: "db", condition: "ready", message: "is stopped" }] };
    story.exit("i1");
    expect(story.status).toMatchObject({ state: "pending", replacement: { instanceId: "i2", isStopping: true } });

    expect(story.then({ kind: "adopted", instanceId: "i2", pid: 2 }).effects).toContainEqual(stop("i2"));
  });

  test("whose command never ran is begun again", () => {
    const story = updating();

    const again = story.then({ kind: "never_ran", instanceId: "i2", exit });

    expect(again.effects).toEqual([{ kind: "launch" }]);
    expect(story.status.failedGeneration).toBe(0);
  });

  test("whose old instance cannot be ended says so and lets the new one work", () => {
    const story = updating();
    story.ready("i2");

    const failed = story.then({ kind: "stop_failed", instanceId: "i1", survivors: [1] });

    expect(typesOf(failed)).toEqual(["service_stop_failed"]);
    expect(story.status).toMatchObject({ state: "running", ready: true, instanceId: "i2", reason: "STOP_FAILED" });
    expect(story.then({ kind: "due" }).effects).toEqual([stop("i1")]);
  });

  test("whose new instance crashed while the old one retires is ended whole by a stop", () => {
    const story = updating();
    story.ready("i2");
    story.exit("i2");
    expect(story.status.state).toBe("backing_off");

    const stopped = story.wish("stopped");
    expect(stopped.effects).toEqual([stop("i1")]);
    expect(typesOf(stopped)).toEqual(["instance_stopping"]);
    expect(story.status.state).toBe("stopping");
    expect(typesOf(story.exit("i1"))).toEqual(["instance_exited", "service_stopped"]);
  });

  test("with the other strategy there is never a second instance", () => {
    const story = running();
    story.want = { ...story.want, spec: rolling("recreate") };

    expect(story.change().effects).toEqual([stop("i1")]);
    expect(story.exit("i1").effects).toEqual([{ kind: "launch" }]);
  });
});

describe("a dependency", () => {
  const waitingFor: Waiting[] = [{ service: "db", condition: "ready", message: "is starting, not ready" }];

  test("holds back the first start, is told once, and lets go when it is as it must be", () => {
    const story = new Story();
    story.want = { ...story.want, waitingFor };

    const held = story.then({ kind: "look" });
    expect(typesOf(held)).toEqual(["service_waiting"]);
    expect(held.effects).toEqual([]);
    expect(story.status).toMatchObject({ state: "pending", reason: "WAITING_FOR_DEPENDENCY", waitingFor });
    expect(story.then({ kind: "look" })).toEqual({ status: story.status, events: [], effects: [] });

    story.want = { ...story.want, waitingFor: [] };
    expect(story.then({ kind: "look" }).effects).toEqual([{ kind: "launch" }]);
    story.launch();
    expect(story.status.waitingFor).toEqual([]);
  });

  test("that goes down leaves what runs alone and holds back its restart", () => {
    const story = running();
    story.want = { ...story.want, waitingFor };

    expect(story.then({ kind: "look" }).effects).toEqual([]);
    story.exit("i1");
    expect(story.status.state).toBe("backing_off");
    story.nowMs += 10_000;
    expect(typesOf(story.then({ kind: "due" }))).toEqual(["service_waiting"]);
    expect(story.status.state).toBe("pending");
  });

  test("that is down does not end what runs for the sake of a change that could not start", () => {
    const story = running();
    story.want = { ...story.want, spec: rolling("recreate"), waitingFor };

    const held = story.change();

    expect(typesOf(held)).toEqual(["service_waiting"]);
    expect(held.effects).toEqual([]);
    expect(story.status).toMatchObject({ state: "running", ready: true, instanceId: "i1" });
    story.want = { ...story.want, waitingFor: [] };
    expect(story.then({ kind: "look" }).effects).toEqual([stop("i1")]);
  });

  test("does not hold back a stop", () => {
    const story = new Story();
    story.want = { ...story.want, waitingFor };
    story.then({ kind: "look" });

    expect(typesOf(story.wish("stopped"))).toEqual(["service_stopped"]);
    expect(story.status.waitingFor).toEqual([]);
  });
});

describe("a reset", () => {
  test("starts what has given up, and what waits for its restart", () => {
    const story = new Story();
    story.want = {
      ...story.want,
      spec: { ...rolling(), restartPolicy: { ...rolling().restartPolicy, mode: "never" } },
    };
    story.launch();
    story.exit("i1");
    expect(story.status.state).toBe("failed");

    story.want = { ...story.want, resets: 1 };
    expect(story.then({ kind: "look" }).effects).toEqual([{ kind: "launch" }]);
    expect(story.status).toMatchObject({ failures: 0, restarts: 0, observedResets: 1 });
  });

  test("leaves what runs running and forgets its failures", () => {
    const story = running();
    story.exit("i1");
    story.nowMs += 10_000;
    story.launch();
    expect(story.status).toMatchObject({ failures: 1, restarts: 1 });

    story.want = { ...story.want, resets: 1 };
    expect(story.then({ kind: "look" }).effects).toEqual([]);
    expect(story.status).toMatchObject({ state: "starting", failures: 0, restarts: 0 });
  });
});

type Happening = "ready" | "missed" | "crash" | "change" | "stop" | "start" | "wait" | "done" | "die" | "unmet" | "met";

/** Runs what the rules ask for, and whatever the world does in between; asked with a number to choose among instances. */
class World extends Story {
  readonly alive = new Set<string>();
  readonly stopping = new Set<string>();
  #wakeAtMs: number | undefined;

  meet(happening: Happening, which: number): void {
    const ids = [...this.alive];
    const id = ids[which % Math.max(1, ids.length)];
    const busy = id !== undefined && !this.stopping.has(id);
    switch (happening) {
      case "ready":
        return busy ? this.carry({ kind: "ready", instanceId: id }) : undefined;
      case "missed":
        return busy ? this.carry({ kind: "readiness_missed", instanceId: id, message: "silence" }) : undefined;
      case "crash":
        return id === undefined ? undefined : this.end(id);
      case "done": {
        const [first] = this.stopping;
        return first === undefined ? undefined : this.end(first);
      }
      case "change":
        this.want = { ...this.want, generation: this.want.generation + 1 };
        return this.carry({ kind: "look" });
      case "stop":
        this.want = { ...this.want, wish: "stopped" };
        return this.carry({ kind: "look" });
      case "start":
        this.want = { ...this.want, wish: "running", generation: this.want.generation + 1 };
        return this.carry({ kind: "look" });
      case "unmet":
      case "met":
        this.want = {
          ...this.want,
          waitingFor: happening === "met" ? [] : [{ service: "db", condition: "ready", message: "is stopped" }],
        };
        return this.carry({ kind: "look" });
      case "wait":
        return this.pass(100_000);
      case "die":
        return this.takeOver();
    }
  }

  pass(ms: number): void {
    this.nowMs += ms;
    const due = this.#wakeAtMs !== undefined && this.#wakeAtMs <= this.nowMs;
    if (due) this.#wakeAtMs = undefined;
    this.carry({ kind: due ? "due" : "look" });
  }

  carry(input: Input): void {
    for (const effect of this.then(input).effects) {
      switch (effect.kind) {
        case "stop":
        case "retire":
          if (this.alive.has(effect.instanceId)) this.stopping.add(effect.instanceId);
          break;
        case "wake":
          this.#wakeAtMs = effect.at.getTime();
          break;
        case "launch":
          this.start();
      }
    }
  }

  start(): void {
    this.#wakeAtMs = undefined;
    this.launches++;
    const instanceId = `i${this.launches}`;
    this.then({ kind: "launching", instanceId, url: `http://127.0.0.1:${this.launches}`, unenforced: "" });
    this.alive.add(instanceId);
    this.carry({ kind: "launched", instanceId, pid: this.launches });
  }

  end(instanceId: string): void {
    this.alive.delete(instanceId);
    this.stopping.delete(instanceId);
    this.carry({ kind: "exited", instanceId, exit });
  }

  /** A new server knows the status and what lives. */
  takeOver(): void {
    this.#wakeAtMs = undefined;
    this.stopping.clear();
    const { state } = this.status;
    for (const instanceId of [...this.alive]) {
      this.carry({ kind: "adopted", instanceId, pid: 1 });
      if (instanceId === this.status.instanceId && (state === "stopping" || state === "stop_failed")) {
        this.stopping.add(instanceId);
      }
    }
    this.carry({ kind: "look" });
  }
}

const happenings = fc.array(
  fc.tuple(
    fc.constantFrom<Happening>(
      ...(["ready", "missed", "crash", "change", "stop", "start", "wait", "done", "die", "unmet", "met"] as const),
    ),
    fc.nat(2),
  ),
  { maxLength: 80 },
);

describe("whatever happens to a service that is updated rolling", () => {
  const runs = { numRuns: 3_000 };

  test("the status names exactly the instances that are alive, and there are never more than two", () => {
    fc.assert(
      fc.property(happenings, (story) => {
        const world = new World();
        for (const [each, which] of story) {
          world.meet(each, which);
          const { status } = world;
          const current = status.startTime === undefined ? [] : [status.instanceId];
          const named = [...current, status.replacement?.instanceId, status.retiring?.instanceId];

          expect(named.filter((id) => id !== undefined).sort()).toEqual([...world.alive].sort());
          expect(world.alive.size).toBeLessThanOrEqual(2);
          if (["stopped", "completed", "failed", "pending"].includes(status.state)) {
            expect(status.startTime).toBeUndefined();
            expect(status.replacement?.isStopping ?? true).toBe(true);
          }
          if (status.state === "stopped") expect(world.alive.size).toBe(0);
        }
      }),
      runs,
    );
  });

  test("once nothing more happens it is as wished: one instance of the newest generation, or the one before and a failed update", () => {
    fc.assert(
      fc.property(happenings, (story) => {
        const world = new World();
        for (const [each, which] of story) world.meet(each, which);
        world.meet("met", 0);
        for (let round = 0; round < 12; round++) {
          for (const id of [...world.stopping]) world.end(id);
          for (const id of [...world.alive])
            if (!world.stopping.has(id)) world.carry({ kind: "ready", instanceId: id });
          world.pass(100_000);
        }

        const { status, want, alive } = world;
        if (want.wish !== "running") {
          expect(status.state).toBe("stopped");
          expect(alive.size).toBe(0);
          return;
        }
        expect(status).toMatchObject({ state: "running", ready: true, replacement: undefined, retiring: undefined });
        expect([...alive]).toEqual([status.instanceId]);
        expect(Math.max(status.observedGeneration, status.failedGeneration)).toBe(want.generation);
      }),
      runs,
    );
  });

  test("looking again changes nothing and asks for nothing new", () => {
    fc.assert(
      fc.property(happenings, (story) => {
        const world = new World();
        for (const [each, which] of story) world.meet(each, which);
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

  test("while it is updated and nothing crashes there is a ready instance at every moment", () => {
    const calm = happenings.map((story) => story.filter(([each]) => !["crash", "stop", "missed"].includes(each)));
    fc.assert(
      fc.property(calm, (story) => {
        const world = new World();
        world.carry({ kind: "look" });
        world.meet("ready", 0);
        for (const [each, which] of story) {
          world.meet(each, which);

          expect(world.status).toMatchObject({ state: "running", ready: true });
          expect(world.alive.has(world.status.instanceId ?? "")).toBe(true);
        }
      }),
      runs,
    );
  });
});
