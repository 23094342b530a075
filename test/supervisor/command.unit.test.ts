import { expect, test } from "vitest";
import { parseAccount } from "../../src/supervisor/account.ts";
import { candidates } from "../../src/supervisor/command.ts";

test("a bare name is looked for along PATH, where an empty entry is the working directory", () => {
  expect(candidates("run", "/a:/b/::rel")).toEqual(["/a/run", "/b/run", "./run", "./rel/run"]);
});

test("a path with a slash is not looked for along PATH", () => {
  expect(candidates("/opt/run", "/a")).toEqual(["/opt/run"]);
  expect(candidates("bin/run", "/a")).toEqual(["./bin/run"]);
  expect(candidates("./run", undefined)).toEqual(["./run"]);
});

test("without PATH the usual places are meant", () => {
  expect(candidates("run", undefined)).toEqual(["/usr/local/bin/run", "/usr/bin/run", "/bin/run"]);
});

test("an entry of the user database is read by its fields", () => {
  expect(parseAccount("alice:x:1001:1002:Alice,,,:/home/alice:/bin/bash\n")).toEqual({
    name: "alice",
    uid: 1001,
    gid: 1002,
    home: "/home/alice",
    shell: "/bin/bash",
  });
});
