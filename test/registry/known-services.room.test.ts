import fc from "fast-check";
import { describe, expect, onTestFinished, test } from "vitest";
import type { Feed, FollowOptions } from "../../src/events/feed.ts";
import { KnownServices } from "../../src/registry/known-services.ts";
import { startFeed } from "../events/workbench.ts";
import { eventually } from "../support/eventually.ts";
import { call, external, Registry } from "./workbench.ts";

const change = { etag: "", paths: undefined, allowMissing: false };
const gone = { etag: "", force: true, allowMissing: false };

describe("a service that was asked for before", () => {
  test("is not read again, and its answer is true at the newest revision", async () => {
    const registry = await Registry.start();
    const { services, store } = registry;
    await services.create(call(), { name: "web", spec: external() });
    const { known, reads } = await remember(registry);
    await known.reaches("web");
    const { revision } = await services.create(call(), { name: "other", spec: external() });
    await known.reaches("web");
    reads.length = 0;

    const found = await known.services.byName("web");

    expect(found).toEqual({ ...(await store.services.byName("web")), revision });
    expect(reads).toEqual([]);
  });

  test("is shown as it is now, whichever server changed it a moment ago", async () => {
    const registry = await Registry.start();
    const other = await Registry.start({ on: registry.database });
    await registry.services.create(call(), { name: "web", spec: external() });

    for (let n = 0; n < 40; n++) {
      const [writer, reader] = n % 2 === 0 ? [registry, other] : [other, registry];
      const labels = { n: String(n) };
      const { revision } = await writer.services.update(call(), { ...change, name: "web", spec: { labels } });
      for (const server of [writer, reader]) {
        const found = await server.services.get("web");
        expect(found.service.spec.labels).toEqual(labels);
        expect(found.revision).toBeGreaterThanOrEqual(revision);
        expect(found.service.revision).toBe(revision);
      }
    }
  });

  test("is not found once it is gone, and is the new one when there is one of its name", async () => {
    const registry = await Registry.start();
    const other = await Registry.start({ on: registry.database });
    const { service: first } = await registry.services.create(call(), { name: "web", spec: external() });
    for (const server of [registry, other]) await remembered(server, "web");

    await registry.services.delete(call(), { ...gone, name: "web" });
    for (const { services } of [registry, other])
      await expect(services.get("web")).rejects.toMatchObject({ code: "not_found" });
    const { service: second } = await other.services.create(call(), { name: "web", spec: external() });

    for (const { services } of [registry, other]) expect((await services.get("web")).service.uid).toBe(second.uid);
    expect(second.uid).not.toBe(first.uid);
  });

  test("is found by its exact name only", async () => {
    const registry = await Registry.start();
    await registry.services.create(call(), { name: "Web", spec: external() });
    await remembered(registry, "Web");

    for (const name of ["web", "WEB"])
      await expect(registry.services.get(name)).rejects.toMatchObject({ code: "not_found" });
    expect((await registry.services.get("Web")).service.name).toBe("Web");
  });

  test("is unavailable with the database, however well it is known", async () => {
    const registry = await Registry.start();
    await registry.services.create(call(), { name: "web", spec: external() });
    await remembered(registry, "web");

    await registry.store.stop();

    await expect(registry.services.get("web")).rejects.toMatchObject({
      code: "unavailable",
      reason: "STORE_UNAVAILABLE",
    });
  });
});

test("while the log lags, the database answers", async () => {
  const registry = await Registry.start();
  await registry.services.create(call(), { name: "web", spec: external() });
  const { known, reads, hold } = await remember(registry);
  await known.reaches("web");
  hold();

  const { service } = await registry.services.update(call(), {
    ...change,
    name: "web",
    spec: { url: "http://b.example" },
  });
  await registry.services.create(call(), { name: "other", spec: external() });
  reads.length = 0;

  expect((await known.services.byName("web")).service).toEqual(service);
  expect(reads).toEqual(["web"]);
});

test("a log that cannot be followed is followed again, and the database answers meanwhile", async () => {
  const registry = await Registry.start();
  const { service } = await registry.services.create(call(), { name: "web", spec: external() });
  const { known, failures, fail } = await remember(registry);
  await known.reaches("web");

  fail(new Error("the log is away"));
  await registry.services.create(call(), { name: "other", spec: external() });
  await eventually(() => failures.length > 0);

  expect((await known.services.byName("web")).service).toEqual(service);
  await known.reaches("web");
  expect(failures).toEqual([new Error("the log is away")]);
});

test("what was not asked for the longest is forgotten when there is no more room", async () => {
  const registry = await Registry.start();
  const info = { text: "x".repeat(10_000) };
  for (const name of ["a", "b", "c"]) await registry.services.create(call(), { name, spec: external({ info }) });
  const { known, reads } = await remember(registry, { bytes: 25_000 });
  for (const name of ["a", "b", "a"]) await known.reaches(name);

  await known.services.byName("c");
  reads.length = 0;
  for (const name of ["a", "c", "b"]) await known.services.byName(name);

  expect(reads).toEqual(["b"]);
});

test("whatever two servers do, each tells what the database would tell", async () => {
  const registry = await Registry.start();
  const servers = [registry, await Registry.start({ on: registry.database })];
  const names = ["a", "b"];
  const step = fc.record({
    kind: fc.constantFrom("create", "update", "delete", "get", "get", "get"),
    name: fc.constantFrom(...names),
    server: fc.nat({ max: 1 }),
    together: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
      const busy: Promise<unknown>[] = [];
      for (const { kind, name, server, together } of steps) {
        const { services } = servers[server] ?? registry;
        const spec = external({ labels: { step: String(busy.length) } });
        const done =
          kind === "create"
            ? services.create(call(), { name, spec })
            : kind === "update"
              ? services.update(call(), { ...change, name, spec })
              : kind === "delete"
                ? services.delete(call(), { ...gone, name })
                : services.get(name);
        const settled = done.catch(() => undefined);
        busy.push(settled);
        if (!together) await settled;
      }
      await Promise.all(busy);
      for (const name of names) {
        const { service } = await registry.store.services.byName(name);
        for (const { services } of servers)
          expect(
            await services.get(name).then(
              (found) => found.service,
              () => undefined,
            ),
          ).toEqual(service);
      }
    }),
    { numRuns: 20 },
  );
});

/** What a server has to answer for a name next is known to it. */
async function remembered(registry: Registry, name: string): Promise<void> {
  const { byName } = registry.store.services;
  let reads = 0;
  registry.store.services.byName = (asked) => {
    reads += 1;
    return byName.call(registry.store.services, asked);
  };
  await eventually(async () => {
    reads = 0;
    await registry.services.get(name);
    return reads === 0;
  });
}

/** A memory of its own beside a registry's, with what it reads of services, and a log that can be held or fail. */
async function remember({ store, clock }: Registry, o: { bytes?: number } = {}) {
  const { feed } = await startFeed(store);
  const reads: string[] = [];
  const failures: unknown[] = [];
  const log = new FaultyLog(feed);
  const services = new KnownServices({
    ...o,
    source: {
      byName: (name) => {
        reads.push(name);
        return store.services.byName(name);
      },
      head: () => store.services.head(),
    },
    feed: log,
    clock,
    onFailure: (error) => failures.push(error),
  });
  await services.start();
  onTestFinished(() => services.stop());
  onTestFinished(() => log.release());
  const reaches = (name: string) =>
    eventually(async () => {
      reads.length = 0;
      await services.byName(name);
      return reads.length === 0;
    });
  return {
    known: { services, reaches },
    reads,
    failures,
    hold: () => log.hold(),
    fail: (error: Error) => log.fail(error),
  };
}

/** A feed whose next item can be held back, or be a failure instead. */
class FaultyLog {
  readonly #feed: Feed;
  #held = Promise.resolve();
  #release = (): void => undefined;
  #failure: Error | undefined;

  constructor(feed: Feed) {
    this.#feed = feed;
  }

  hold(): void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#held = promise;
    this.#release = resolve;
  }

  release(): void {
    this.#release();
  }

  fail(error: Error): void {
    this.#failure = error;
  }

  async *follow(options: FollowOptions): ReturnType<Feed["follow"]> {
    for await (const item of this.#feed.follow(options)) {
      await this.#held;
      const failure = this.#failure;
      this.#failure = undefined;
      if (failure !== undefined) throw failure;
      yield item;
    }
  }
}
