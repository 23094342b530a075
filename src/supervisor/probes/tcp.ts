import { once } from "node:events";
import { connect } from "node:net";
import { type Address, hostPort } from "./address.ts";
import { type Question, within, yes } from "./question.ts";

/** A connection that is taken is a success; nothing is sent. */
export function tcpQuestion(address: Address): Question {
  return {
    subject: `tcp ${hostPort(address)}`,
    ask: (signal, timeoutMs) =>
      within(signal, timeoutMs, async (limit) => {
        const socket = connect({ host: address.host, port: address.port });
        // One that fails after it was given up has nothing more to say.
        socket.on("error", () => undefined);
        try {
          await once(socket, "connect", { signal: limit });
          return yes("it takes connections");
        } finally {
          socket.destroy();
        }
      }),
  };
}
