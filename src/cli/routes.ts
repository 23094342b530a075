import { type Route, RouteSchema } from "../../gen/steward/v1/route_pb.ts";
import type { Session } from "./command.ts";
import { age, type OutputFormat, printList, printTable } from "./print.ts";
import { routeWord } from "./words.ts";

/** `steward get routes`. */
export async function getRoutes(session: Session, options: { output: OutputFormat }): Promise<void> {
  const routes: Route[] = [];
  let pageToken = "";
  do {
    const page = await session.supervisor.listRoutes({ pageToken, pageSize: 1_000 }, { signal: session.signal });
    routes.push(...page.routes);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  if (options.output === "name") return session.screen.write(routes.map((route) => `${route.service}\n`).join(""));
  if (options.output !== "table") return printList(session.screen, options.output, RouteSchema, routes);
  if (routes.length === 0) return session.screen.writeError("no routes\n");
  const header = ["PREFIX", "TARGET", "STATE", "SINCE", "PROXY", "REASON"];
  const rows = routes.map((route) => [
    route.prefix,
    route.target,
    routeWord(route),
    age(route.transitionTime),
    route.proxy,
    route.reason,
  ]);
  printTable(session.screen, header, rows);
}
