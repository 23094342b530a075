import { MemoryProxy, MemoryTable } from "../../src/proxy/memory.ts";
import { proxyConformance } from "./conformance.ts";

proxyConformance("the table in memory", async () => {
  const table = new MemoryTable();
  return {
    hasTokens: false,
    driver: ({ owner, epoch = 1 }) => new MemoryProxy(table, { owner, epoch }),
    targets: async () => Object.fromEntries(Array.from(table.routes, ([prefix, { target }]) => [prefix, target])),
    putForeign: async (prefix, target) => void table.routes.set(prefix, { target, owner: undefined, mark: undefined }),
    removeAny: async (prefix) => void table.routes.delete(prefix),
    restart: async () => table.restart(),
  };
});
