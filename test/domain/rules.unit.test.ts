import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AppError } from "../../src/domain/errors.ts";
import { eventFilter, serviceFilter } from "../../src/domain/filter.ts";
import { decodePageToken, encodePageToken, pageSizeOf } from "../../src/domain/page.ts";
import { covers, may, type Principal } from "../../src/domain/principal.ts";
import { parseServiceName } from "../../src/domain/service-name.ts";
import { parseServiceSpec, type ServiceSpecInput, specToInput } from "../../src/domain/service-spec.ts";
import { parseServiceUrl } from "../../src/domain/service-url.ts";
import { diffSpecs, mergeSpec } from "../../src/domain/spec-update.ts";
import { looksMinted, mintSecret, TokenKeys } from "../../src/domain/token-secret.ts";

const rules = { forbidden: [{ host: "127.0.0.1", port: 7700 }], field: "service.spec" };

function problems(input: ServiceSpecInput): string[] {
  try {
    parseServiceSpec("web", input, rules);
    return [];
  } catch (error) {
    return error instanceof AppError ? error.violations.map(({ field }) => field) : [String(error)];
  }
}

describe("a name", () => {
  test.each([
    "",
    "a b",
    "a/b",
    "..",
    ".",
    "-a",
    "a-",
    "x".repeat(64),
    "a\n",
    "%2e",
    "__proto__",
    "constructor",
    "toString",
  ])("cannot be %j", (name) => {
    expect(() => parseServiceName(name, "service_id")).toThrow("service_id");
  });

  test.each(["a", "A.b_c-9", "x".repeat(63)])("can be %j", (name) => {
    expect(parseServiceName(name, "service_id")).toBe(name);
  });
});

describe("a url", () => {
  const parse = (url: string, managed = false) => parseServiceUrl(url, "url", { managed, forbidden: rules.forbidden });

  test.each([
    "ftp://h:1",
    "h:80",
    "http://u:p@h:1",
    "http://h:1/path",
    "http://h:1/?q",
    "http://h:1/#f",
    "http://127.0.0.1:7700",
    "http://localhost:7700",
    "http://2130706433:7700",
    "http://0x7f.1:7700",
    "http://[::1]:7700",
    "http://[::ffff:127.0.0.1]:7700",
    "http://169.254.169.254",
    "http://[fe80::1]:80",
    "http://0.0.0.0:80",
    "http://127.0.0.1:0",
    "http://a b",
    "",
  ])("cannot be %j", (url) => {
    expect(parse(url)).toHaveProperty("description");
  });

  test("is kept as its origin, and may leave the port of a managed service to Steward", () => {
    expect(parse("https://Host:8888/")).toEqual({ url: "https://host:8888" });
    expect(parse("http://127.0.0.1:0", true)).toEqual({ url: "http://127.0.0.1:0" });
  });
});

describe("a spec", () => {
  test("tells everything that is wrong at once, by field", () => {
    const input: ServiceSpecInput = {
      kind: {
        type: "managed",
        command: [""],
        cwd: "here",
        environment: { "A=B": "", JUPYTERHUB_SERVICE_NAME: "x", OK: "a\0b" },
      },
      url: "ftp://x",
      apiToken: "short",
      oauthClientId: "x",
    };

    expect(problems(input)).toEqual([
      "service.spec.url",
      "service.spec.api_token",
      "service.spec.managed.command",
      'service.spec.managed.environment["A=B"]',
      'service.spec.managed.environment["JUPYTERHUB_SERVICE_NAME"]',
      'service.spec.managed.environment["OK"]',
      "service.spec.managed.cwd",
      "service.spec.oauth_client_id",
    ]);
  });

  test("gets its defaults, and a warning for a short token", () => {
    const { spec, warnings } = parseServiceSpec("web", { kind: { type: "external" }, apiToken: "super-secret" }, rules);

    expect(spec).toMatchObject({
      admin: false,
      display: true,
      oauthClientId: "service-web",
      apiTokenSet: true,
      url: undefined,
    });
    expect(warnings).toHaveLength(1);
  });

  test("parsed again from what it says is the same", () => {
    const { spec } = parseServiceSpec(
      "web",
      { kind: { type: "managed", command: ["a", "b"] }, url: "http://127.0.0.1:0" },
      rules,
    );

    expect(parseServiceSpec("web", specToInput(spec), rules).spec).toEqual(spec);
  });

  test("asks for a new process only where the process is touched", () => {
    const { spec } = parseServiceSpec("web", { kind: { type: "managed", command: ["a"] } }, rules);
    const change = (input: ServiceSpecInput, paths: string[]) =>
      diffSpecs(spec, parseServiceSpec("web", mergeSpec(specToInput(spec), input, paths), rules).spec);

    expect(change({ labels: { a: "b" } }, ["spec.labels"])).toEqual({ paths: ["spec.labels"], restarts: false });
    expect(change({ kind: { type: "managed", command: ["b"] } }, ["spec.managed.command"])).toEqual({
      paths: ["spec.managed.command"],
      restarts: true,
    });
    expect(() => change({}, ["status.pid"])).toThrow("update_mask");
  });
});

describe("a filter", () => {
  test("is understood or refused with invalid_argument, whatever it says", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom(..."ab=!<>:()\"' .*AND OR NOT name labels".split("")) }),
        (text) => {
          try {
            serviceFilter(text);
          } catch (error) {
            expect(error).toMatchObject({ code: "invalid_argument", reason: "FILTER_INVALID" });
          }
        },
      ),
    );
  });

  test("names the fields that there are", () => {
    expect(() => eventFilter("nothing = 1")).toThrow("service_uid");
  });
});

describe("a page token", () => {
  test("is good for its own list only", () => {
    const token = encodePageToken(["services", "a"], "web");

    expect(decodePageToken(["services", "a"], token)).toBe("web");
    for (const wrong of [token.slice(1), "x", encodePageToken(["services", "b"], "web")]) {
      expect(() => decodePageToken(["services", "a"], wrong)).toThrow("page_token");
    }
  });

  test("a page token is good for three days", () => {
    const list = ["services", "a"];
    const madeAt = new Date("2026-01-01T00:00:00Z");
    const token = encodePageToken(list, "web", { now: () => madeAt });
    const after = (ms: number) => ({ now: () => new Date(madeAt.getTime() + ms) });

    expect(decodePageToken(list, token, after(3 * 86_400_000))).toBe("web");
    expect(() => decodePageToken(list, token, after(3 * 86_400_000 + 1))).toThrow("older than three days");
  });

  test("comes with a size of 50, at most 1000, never negative", () => {
    expect([0, 7, 5_000].map((pageSize) => pageSizeOf({ pageSize }))).toEqual([50, 7, 1_000]);
    expect(() => pageSizeOf({ pageSize: -1 })).toThrow("page_size");
  });
});

describe("a secret", () => {
  test("is minted with a checksum that finds typing errors", () => {
    const secret = mintSecret();

    expect(secret).toMatch(/^sts_[0-9A-Za-z]{36}$/);
    expect(looksMinted(secret)).toBe(true);
    expect(looksMinted(secret.slice(0, -1) + (secret.endsWith("0") ? "1" : "0"))).toBe(false);
  });

  test("that is sealed can be opened with the same pepper, unchanged, and not with another", () => {
    const [keys, others] = [new TokenKeys(Buffer.alloc(32, 1)), new TokenKeys(Buffer.alloc(32, 2))];
    fc.assert(
      fc.property(fc.string(), (text) => {
        const sealed = keys.seal(text);

        expect(keys.open(sealed)).toBe(text);
        expect(() => others.open(sealed)).toThrow();
      }),
    );
  });
});

describe("a principal", () => {
  const principal = (scopes: string[]): Principal => ({
    kind: "service",
    name: "web",
    serviceUid: "u",
    tokenId: "t",
    tokenExpireTime: undefined,
    scopes,
  });

  test("may do what its scopes say, for the service that they say", () => {
    expect(may(principal(["*"]), "admin:services")).toBe(true);
    expect(may(principal(["control:services!service=a"]), "control:services", "A")).toBe(true);
    expect(may(principal(["control:services!service=a"]), "control:services", "b")).toBe(false);
    expect(may(principal([]), "read:services", "web")).toBe(false);
  });

  test("grants no more than it has", () => {
    expect(covers(principal(["read:services"]), "read:services!service=a")).toBe(true);
    expect(covers(principal(["read:services!service=a"]), "read:services")).toBe(false);
  });
});
