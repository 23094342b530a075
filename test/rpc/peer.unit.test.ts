import { expect, test } from "vitest";
import { namesIn } from "../../src/rpc/peer.ts";

test.each([
  ["URI:spiffe://example.org/a, DNS:a.example, IP Address:127.0.0.1", "CN=x", ["spiffe://example.org/a", "a.example"]],
  ["DNS:a.example", undefined, ["a.example"]],
  [undefined, "C=DE\nO=Example\nCN=nightly", ["nightly"]],
  ["IP Address:127.0.0.1, email:a@example.org", "CN=nightly", ["nightly"]],
  [undefined, "CN=one\nCN=two", []],
  [undefined, "O=nobody", []],
  [undefined, undefined, []],
])("the names of a certificate with %j and %j are %j", (alternatives, subject, names) => {
  expect(namesIn(alternatives, subject)).toEqual(names);
});

test("what is inside a name does not become another name", () => {
  // Source: how Node writes names with separators since CVE-2021-44532.
  expect(namesIn('URI:"http://x/\\u002c DNS:operator, DNS:y", DNS:z', undefined)).toEqual([
    "http://x/, DNS:operator, DNS:y",
    "z",
  ]);
  expect(namesIn('DNS:"a, URI:spiffe://x/ops"', undefined)).toEqual(["a, URI:spiffe://x/ops"]);
  expect(namesIn('othername:"x, DNS:operator"', "CN=me")).toEqual(["me"]);
});
