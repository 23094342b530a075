import fc from "fast-check";

/** Few enough that writers get into each other's way. */
export const names = ["a", "b", "c", "d", "e", "f", "g", "h"] as const;

/** The others are external: a service does not change its kind. */
export const managedNames: ReadonlySet<string> = new Set(["a", "c", "d", "f"]);

/** How a request is made. */
export type Manner =
  | "once"
  /** The same request again after its answer, as a client does that has lost it. */
  | "twice"
  | "validate only"
  | "with a stale etag"
  /** Given up where the server or the database is away; all others try until they are answered. */
  | "at most once";

export interface Write {
  readonly kind:
    | "create"
    /** Fails again and again, if it is managed. */
    | "create failing"
    | "label"
    | "change command"
    | "delete"
    | "start"
    | "stop"
    | "restart"
    | "apply"
    | "apply with a fault"
    | "apply large";
  readonly name: string;
  readonly others: readonly string[];
  readonly team: string;
  readonly set: string;
  readonly prune: boolean;
  readonly manner: Manner;
}

export type Deed = Write | { readonly kind: "list"; readonly view: number };

export type Fault =
  | "terminate the listener"
  | "terminate every connection"
  | "withhold notifications"
  | "deliver notifications"
  | "lose a commit"
  | "lose the answer to a commit"
  | "restart the database"
  | "restart the server"
  | "restart both"
  | "reset the clients";

export interface PlannedWatcher {
  readonly of: "events" | "services";
  readonly view: number;
  readonly transport: number;
  readonly from: "now" | "the beginning" | "a list";
  readonly lookMs: number;
  /** After how many deeds it comes. */
  readonly at: number;
}

/** Somebody who resumes after a cursor that a watcher was given: both by their place among all, counted on from the first after the last. */
export interface PlannedReturn {
  readonly watcher: number;
  readonly cursor: number;
  readonly transport: number;
}

export interface Plan {
  readonly deeds: readonly Deed[];
  readonly faults: readonly { readonly fault: Fault; readonly at: number }[];
  readonly watchers: readonly PlannedWatcher[];
  readonly returns: readonly PlannedReturn[];
}

/** The same plan for the same seed; in which order the writers come to what is of the moment. */
export function planOf(seed: number): Plan {
  // A first sample is biased to what is small.
  const [plan] = fc.sample(fc.noBias(anyPlan), { seed, numRuns: 1 });
  if (plan === undefined) throw new Error("there is no plan");
  return plan;
}

const name = fc.constantFrom(...names);
const transport = fc.nat({ max: 4 });

const anyWrite: fc.Arbitrary<Write> = fc.record({
  kind: fc.constantFrom<Write["kind"][]>(
    ...(["create", "create", "create failing", "label", "label", "label", "label", "change command"] as const),
    ...(["delete", "delete", "start", "stop", "stop", "restart"] as const),
    ...(["apply", "apply", "apply", "apply", "apply with a fault", "apply large"] as const),
  ),
  name,
  others: fc.uniqueArray(name, { minLength: 1, maxLength: 4 }),
  team: fc.constantFrom("red", "blue"),
  set: fc.constantFrom("one", "two"),
  prune: fc.boolean(),
  manner: fc.oneof(
    { weight: 6, arbitrary: fc.constant<Manner>("once") },
    {
      weight: 4,
      arbitrary: fc.constantFrom<Manner[]>("twice", "validate only", "with a stale etag", "at most once"),
    },
  ),
});

const anyDeed: fc.Arbitrary<Deed> = fc.oneof(
  { weight: 8, arbitrary: anyWrite },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("list" as const), view: fc.nat() }) },
);

const aDeath = fc.constantFrom<Fault[]>("restart the database", "restart the server", "restart both");
const aNuisance = fc.constantFrom<Fault[]>(
  ...(["terminate the listener", "terminate every connection", "withhold notifications"] as const),
  ...(["deliver notifications", "lose a commit", "lose the answer to a commit", "reset the clients"] as const),
);

const foundation: Write = {
  ...{ kind: "apply", name: "a", others: names, team: "red", set: "one", prune: false, manner: "once" },
};

const anyPlan: fc.Arbitrary<Plan> = fc.nat({ max: 40 }).chain((more) => {
  const deeds = 80 + more;
  const at = fc.nat({ max: deeds - 1 });
  const watcher = (of: PlannedWatcher["of"]): fc.Arbitrary<PlannedWatcher> =>
    fc.record({
      of: fc.constant(of),
      // The first view is of everything: watchers that see the same share what is made for them.
      view: fc.oneof({ weight: 2, arbitrary: fc.constant(0) }, { weight: 5, arbitrary: fc.nat() }),
      transport,
      from: fc.constantFrom("now", "now", "the beginning", "a list"),
      lookMs: fc.constantFrom(0, 0, 0, 15),
      at: fc.oneof(fc.constant(0), at),
    });
  return fc.record({
    // There shall be something to change from the beginning.
    deeds: fc.array(anyDeed, { minLength: deeds, maxLength: deeds }).map((each) => [foundation, ...each.slice(1)]),
    faults: fc
      .tuple(
        fc.array(fc.record({ fault: aDeath, at }), { minLength: 1, maxLength: 2 }),
        fc.array(fc.record({ fault: aNuisance, at }), { minLength: 3, maxLength: 6 }),
      )
      .map((each) => each.flat()),
    watchers: fc.tuple(
      ...(["events", "services", "events", "services", "services", "events", "services"] as const).map(watcher),
    ),
    returns: fc.array(fc.record({ watcher: fc.nat(), cursor: fc.nat(), transport }), { minLength: 4, maxLength: 4 }),
  });
});
