import { EventType } from "../../../gen/steward/v1/event_pb.ts";
import { names } from "./plan.ts";
import type { SeenEvent, SeenService } from "./promises.ts";

/** What of the log a watcher asks for: once in the words of the server, once as the test itself decides it. */
export interface EventView {
  readonly filter: string;
  readonly types?: readonly EventType[];
  readonly withServices?: boolean;
  /** With a token that may see the first of the names only. */
  readonly isNarrow?: boolean;
  readonly matches: (event: SeenEvent) => boolean;
}

export interface ServiceView {
  readonly filter: string;
  readonly isNarrow?: boolean;
  readonly matches: (service: SeenService) => boolean;
}

const [first, second] = names;

export const eventViews: readonly EventView[] = [
  { filter: "", matches: () => true },
  { filter: "", withServices: true, matches: () => true },
  { filter: `service = "${first}"`, matches: ({ service }) => service === first },
  { filter: 'actor != "operator"', withServices: true, matches: ({ actor }) => actor !== "operator" },
  { filter: "type = INSTANCE_*", matches: ({ type }) => type.startsWith("instance_") },
  { filter: "service = nobody", matches: () => false },
  {
    filter: `NOT (service = "${first}" OR service = "${second}")`,
    matches: ({ service }) => service !== first && service !== second,
  },
  {
    filter: "",
    types: [EventType.SERVICE_CREATED, EventType.SERVICE_DELETED],
    matches: ({ type }) => type === "service_created" || type === "service_deleted",
  },
  {
    filter: "revision > 40",
    types: [EventType.SERVICE_UPDATED],
    matches: ({ type, revision }) => type === "service_updated" && revision > 40n,
  },
  { filter: "", isNarrow: true, withServices: true, matches: ({ service }) => service === first },
];

export const serviceViews: readonly ServiceView[] = [
  { filter: "", matches: () => true },
  { filter: "labels.team = red", matches: ({ labels }) => labels["team"] === "red" },
  { filter: "labels.team != red", matches: ({ labels }) => labels["team"] !== "red" },
  { filter: "state = RUNNING", matches: ({ state }) => state === "running" },
  { filter: "wish = running AND kind = managed", matches: (s) => s.wish === "running" && s.kind === "managed" },
  { filter: "ready = true OR set_name = one", matches: ({ ready, setName }) => ready || setName === "one" },
  { filter: `name = "${first}"`, matches: ({ name }) => name === first },
  { filter: "labels.team = nobody", matches: () => false },
  { filter: "", isNarrow: true, matches: ({ name }) => name === first },
  {
    filter: "NOT (labels.team = red AND state = RUNNING)",
    matches: ({ labels, state }) => !(labels["team"] === "red" && state === "running"),
  },
];
