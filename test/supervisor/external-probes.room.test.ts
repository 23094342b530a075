import { createServer, type Server } from "node:http";
import { afterEach, describe, expect, test } from "vitest";
import { systemClock } from "../../src/domain/clock.ts";
import { AppError } from "../../src/domain/errors.ts";
import { externalStatus } from "../../src/domain/external-status.ts";
import type { ProbeInput } from "../../src/domain/probe.ts";
import type { Service } from "../../src/domain/service.ts";
import { parseServiceSpec, type ServiceSpecInput } from "../../src/domain/service-spec.ts";
import { ExternalProbes } from "../../src/supervisor/external-probes.ts";
import { originOf } from "../../src/supervisor/probes/address.ts";
import type { Fact } from "../../src/supervisor/runner-tools.ts";
import { eventually } from "../support/eventually.ts";
import { type OwnPlane, openPlane } from "./own-plane.ts";
import { Neighbours } from "./probes/neighbours.ts";

const neighbours = new Neighbours();
afterEach(() => neighbours.close());

const quick = { periodMs: 100, timeoutMs: 5_000 } as const;
const asksHttp: ProbeInput = { action: { kind: "http", path: "/health", port: undefined }, ...quick };

function external(url: string | undefined, probe?: ProbeInput): ServiceSpecInput {
  return { url, kind: { type: "external", probe } };
}

/** A service of somebody else, which answers with `status`. */
async function somebody(status = 200): Promise<{ url: string; asked: string[]; state: { status: number } }> {
  const asked: string[] = [];
  const state = { status };
  const server: Server = createServer((request, response) => {
    asked.push(request.url ?? "");
    response.writeHead(state.status).end();
  });
  return { url: originOf(await neighbours.listen(server)), asked, state };
}

describe("on a control plane", () => {
  let own: OwnPlane;
  afterEach(() => own.clear());
  const verdicts = async (name: string) =>
    (await own.plane.typesOf(name)).filter((type) => type === "service_up" || type === "service_down");

  test("an external service is found up, down and up again, each told once", async () => {
    own = await openPlane();
    const { url, state } = await somebody();
    await own.plane.register("mail", external(url, asksHttp));

    const { status: up } = await own.plane.until("mail", ({ status }) => status.ready);
    expect(up).toMatchObject({ state: "external", reason: "UP", message: "", published: true });

    state.status = 503;
    const down = await own.plane.until("mail", ({ status }) => status.reason === "DOWN");
    expect(down.status).toMatchObject({ ready: false, message: "it answers 503", published: true, url });
    expect(down.status.readyTransitionTime?.getTime()).toBeGreaterThan(up.readyTransitionTime?.getTime() ?? 0);
    // More questions change nothing.
    await eventually(() => own.plane.supervisor.probeResults(down).filter(({ success }) => !success).length > 3);
    expect(await verdicts("mail")).toEqual(["service_up", "service_down"]);

    state.status = 200;
    await own.plane.until("mail", ({ status }) => status.ready);
    expect(await verdicts("mail")).toEqual(["service_up", "service_down", "service_up"]);
  });

  test("one with a url is asked for its public prefix, one without is not asked", async () => {
    own = await openPlane();
    const { url, asked } = await somebody(404);
    await own.plane.register("mail", external(url));
    const silent = await own.plane.register("silent", external(undefined));

    await own.plane.until("mail", ({ status }) => status.ready);

    expect(asked).toEqual(["/services/mail/"]);
    expect((await own.plane.service("silent")).status).toMatchObject({ ready: false, reason: "" });
    expect(own.plane.supervisor.probeResults(silent)).toEqual([]);
  });

  test("a change of something else leaves it as it was found, another address has to be found first", async () => {
    own = await openPlane();
    const { url } = await somebody();
    await own.plane.register("mail", external(url, asksHttp));
    await own.plane.until("mail", ({ status }) => status.ready);

    await own.plane.change("mail", { labels: { team: "a" } }, ["spec.labels"]);
    expect((await own.plane.service("mail")).status).toMatchObject({ ready: true, reason: "UP" });

    await own.plane.change("mail", external(originOf(await neighbours.nobody()), asksHttp));
    const { status } = await own.plane.until("mail", ({ status }) => status.reason === "DOWN");
    expect(status.message).toContain("ECONNREFUSED");
    await own.plane.change("mail", external(undefined));
    expect((await own.plane.service("mail")).status).toMatchObject({ ready: false, reason: "" });
  });

  test("one that is deleted is not asked any more", async () => {
    own = await openPlane();
    const { url, asked } = await somebody();
    const service = await own.plane.register("mail", external(url, asksHttp));
    await own.plane.until("mail", ({ status }) => status.ready);

    await own.plane.remove("mail");
    await eventually(() => own.plane.supervisor.probeResults(service).length === 0);
    const before = asked.length;
    const { url: other } = await somebody();
    await own.plane.register("other", external(other, asksHttp));
    await own.plane.until("other", ({ status }) => status.ready);

    expect(asked.length).toBeLessThanOrEqual(before + 1);
  });

  test("the next server goes on with what the last one found", async () => {
    own = await openPlane();
    const { url, state } = await somebody();
    await own.plane.register("mail", external(url, asksHttp));
    await own.plane.until("mail", ({ status }) => status.ready);
    await own.plane.letGo();
    state.status = 500;

    await own.plane.supervise();
    await own.plane.until("mail", ({ status }) => status.reason === "DOWN");

    expect(await verdicts("mail")).toEqual(["service_up", "service_down"]);
  });
});

describe("by itself", () => {
  /** Those who ask and what they recorded; `refuse` is asked before each record. */
  function probes(refuse: (fact: Fact) => boolean = () => false): { asking: ExternalProbes; facts: Fact[] } {
    const facts: Fact[] = [];
    const asking = new ExternalProbes({
      clock: systemClock,
      random: Math.random,
      facts: {
        record: async (fact) => {
          if (refuse(fact)) throw new AppError("aborted", "ETAG_MISMATCH", "changed");
          facts.push(fact);
          return BigInt(facts.length);
        },
      },
      onFailure: (error) => {
        throw error;
      },
    });
    return { asking, facts };
  }

  function service(name: string, url: string, version = 1): Service {
    const { spec } = parseServiceSpec(name, external(url, asksHttp), { forbidden: [], field: "spec" });
    const now = new Date();
    return {
      ...{ name, uid: name, spec, wish: "running", generation: 1, resets: 0, version, route: undefined },
      ...{ revision: BigInt(version), createTime: now, updateTime: now, setName: "" },
      status: externalStatus(spec, undefined, now),
    };
  }

  test("five hundred are asked side by side, and each is told once", async () => {
    const { url, asked } = await somebody();
    const { asking, facts } = probes();
    for (let index = 0; index < 500; index++) asking.note(service(`s${index}`, url));

    await eventually(() => facts.length === 500 && asked.length > 1_500, { timeoutMs: 30_000 });
    await asking.stop();

    expect(facts).toHaveLength(500);
    expect(new Set(facts.map(({ serviceUid }) => serviceUid)).size).toBe(500);
  });

  test("a change that came in between is not written over", async () => {
    const { url } = await somebody();
    const { asking, facts } = probes((fact) => {
      const isOld = fact.guard?.version === 1;
      if (isOld) asking.note({ ...service("mail", url, 2), setName: "changed" });
      return isOld;
    });

    asking.note(service("mail", url, 1));
    await eventually(() => facts.length > 0);
    await asking.stop();

    expect(facts).toEqual([expect.objectContaining({ guard: { version: 2 } })]);
  });

  test("stopping does not wait for a database that is away", async () => {
    const { url, asked } = await somebody();
    const asking = new ExternalProbes({
      clock: systemClock,
      random: () => 0,
      facts: { record: () => new Promise(() => undefined) },
      onFailure: () => undefined,
    });
    asking.note(service("mail", url));
    await eventually(() => asked.length > 0);

    await asking.stop();
  });
});
