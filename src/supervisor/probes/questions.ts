import type { ProbeAction } from "../../domain/probe.ts";
import { addressOf } from "./address.ts";
import { type ExecTools, execQuestion } from "./exec.ts";
import { grpcQuestion } from "./grpc.ts";
import { httpQuestion } from "./http.ts";
import { notifyQuestion } from "./notify.ts";
import type { Question } from "./question.ts";
import { tcpQuestion } from "./tcp.ts";

/** What can be asked from outside, of whomever. */
export type NetworkAction = Exclude<ProbeAction, { kind: "exec" | "notify" }>;

/** Where a service is asked by default. */
export interface Place {
  readonly url: string | undefined;
  readonly path: string;
}

export function networkQuestion(action: NetworkAction, { url, path }: Place): Question {
  const address = addressOf(url, action.port);
  switch (action.kind) {
    case "http":
      return httpQuestion(address, action.path ?? path);
    case "tcp":
      return tcpQuestion(address);
    case "grpc":
      return grpcQuestion(address, action.service);
  }
}

/** What can be asked of a process of ours. */
export function processQuestion(action: ProbeAction, place: Place, tools: ExecTools & { runDir: string }): Question {
  switch (action.kind) {
    case "exec":
      return execQuestion(action.command, tools);
    case "notify":
      return notifyQuestion(tools.runDir, action.fd);
    case "http":
    case "tcp":
    case "grpc":
      return networkQuestion(action, place);
  }
}
