import { eventually } from "../../support/eventually.ts";
import type { PrivatePostgres } from "../../support/postgres.ts";
import { transports } from "../transports.ts";
import { type Answer, brokenAnswers } from "./answers.ts";
import type { Plan, PlannedReturn, PlannedWatcher } from "./plan.ts";
import { brokenPromises, Log, type SeenList } from "./promises.ts";
import { Scene } from "./scene.ts";
import { readHead, readLog, serviceOf } from "./seen.ts";
import { eventViews, type ServiceView, serviceViews } from "./views.ts";
import { type Place, Watcher, type WatcherOptions } from "./watcher.ts";
import { Writer } from "./writer.ts";

const writers = 4;

/** A plan on its way: writers who share its deeds, watchers who come when it says, and the faults between. */
export class World implements AsyncDisposable {
  readonly #plan: Plan;
  readonly #scene: Scene;
  readonly #watchers: Watcher[] = [];
  readonly #answers: Answer[] = [];
  readonly #lists: SeenList[] = [];
  /** Fulfilled when the latest fault begins. */
  #struck: Promise<void> = Promise.resolve();
  /** Fulfilled when all faults are over. */
  #failed: Promise<void> = Promise.resolve();

  private constructor(plan: Plan, scene: Scene) {
    this.#plan = plan;
    this.#scene = scene;
  }

  static async open(plan: Plan, postgres: PrivatePostgres): Promise<World> {
    return new World(plan, await Scene.open(postgres));
  }

  /** Resolves when all is done and every watcher has heard of all of it, those included who resume in the end after some cursor of before. */
  async run(): Promise<void> {
    const deeds = this.#plan.deeds.entries();
    const work = async (index: number) => {
      const writer = new Writer(() => this.#scene.clients(index));
      for (const [at] of deeds) await this.#do(at, writer, index);
    };
    await Promise.all(Array.from({ length: writers }, (_, index) => work(index)));
    await this.#failed;
    await this.#allReached();
    for (const planned of this.#plan.returns) this.#comeBack(planned);
    await this.#allReached();
  }

  /** What was promised and not kept. The watchers are at their end then. */
  async judge(): Promise<string[]> {
    await this.#leave();
    const log = new Log(await readLog(this.#scene.connection));
    const recordings = this.#watchers.map(({ recording }) => recording);
    const broken = brokenPromises(log, { recordings, lists: this.#lists });
    return [
      ...broken.map(({ promise, who, what }) => `${promise}: ${who}: ${what}`),
      ...brokenAnswers(log, this.#answers),
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#leave();
    await this.#scene[Symbol.asyncDispose]();
  }

  async #leave(): Promise<void> {
    await Promise.all(this.#watchers.map((watcher) => watcher[Symbol.asyncDispose]()));
  }

  async #do(at: number, writer: Writer, transport: number): Promise<void> {
    const { deeds, faults, watchers } = this.#plan;
    for (const planned of watchers) if (planned.at === at) await this.#watch(planned);
    for (const planned of faults) if (planned.at === at) this.#strike(planned.fault);
    await this.#struck;
    const deed = deeds[at];
    if (deed?.kind === "list") await this.#list(deed.view, transport);
    else if (deed !== undefined) this.#answers.push(...(await writer.perform(deed, at)));
  }

  /** One fault after the other; deeds go on during each, and wait for the next to begin. */
  #strike(fault: Plan["faults"][number]["fault"]): void {
    const before = this.#failed;
    this.#struck = before;
    this.#failed = before.then(() => this.#scene.strike(fault));
    // Whoever runs the plan hears of it in the end.
    this.#failed.catch(() => undefined);
    this.#struck.catch(() => undefined);
  }

  async #watch({ of, view, transport, from, lookMs }: PlannedWatcher): Promise<void> {
    const views = of === "events" ? eventViews : serviceViews;
    const what = { ...views[view % views.length], of } as WatcherOptions["view"];
    const after = from === "now" ? undefined : from === "a list" ? await this.#listed(transport) : beginning;
    const isNarrow = what.isNarrow === true;
    const words = what.filter === "" ? (isNarrow ? "of one service" : "") : `with ${what.filter}`;
    this.#watchers.push(
      new Watcher({
        name: `${this.#watchers.length + 1}: ${of} ${words} over ${transports[transport]} from ${from}`,
        ...{ view: what, after, lookMs },
        clients: () => this.#scene.clients(transport, { isNarrow }),
      }),
    );
  }

  #comeBack({ watcher, cursor, transport }: PlannedReturn): void {
    const before = this.#watchers[watcher % this.#plan.watchers.length];
    const cursors = before?.cursors ?? [];
    const revision = cursors[cursor % cursors.length];
    if (before === undefined || revision === undefined) return;
    const { name, view } = before.options;
    this.#watchers.push(
      new Watcher({
        name: `${name}, again after ${revision} over ${transports[transport]}`,
        ...{ view, lookMs: 0, after: { storeUid: "", revision } },
        clients: () => this.#scene.clients(transport, { isNarrow: view.isNarrow === true }),
      }),
    );
  }

  async #list(index: number, transport: number): Promise<void> {
    const { filter, matches }: ServiceView = serviceViews.filter(({ isNarrow }) => isNarrow !== true)[
      index % (serviceViews.length - 1)
    ] ?? { filter: "", matches: () => true };
    const { services, revision } = await eventually(
      () => this.#scene.clients(transport).registry.list({ filter, pageSize: 1_000 }),
      { timeoutMs: 60_000 },
    );
    this.#lists.push({ lister: `a list with ${filter}`, revision, matches, services: services.map(serviceOf) });
  }

  async #listed(transport: number): Promise<Place> {
    const list = () => this.#scene.clients(transport).registry.list({ pageSize: 1 });
    const { revision } = await eventually(list, { timeoutMs: 60_000 });
    return { storeUid: "", revision };
  }

  async #allReached(): Promise<void> {
    const head = await readHead(this.#scene.connection);
    await Promise.all(this.#watchers.map((watcher) => watcher.reached(head)));
  }
}

/** The place before the first revision. */
const beginning: Place = { storeUid: "", revision: 0n };
