import { toJson } from "@bufbuild/protobuf";
import { describe, expect, test } from "vitest";
import { ServiceSchema } from "../../gen/steward/v1/service_pb.ts";
import { UsageError } from "../../src/cli/failure.ts";
import { parseManifest } from "../../src/cli/manifest.ts";

const parse = (...lines: string[]) => parseManifest(lines.join("\n"), "f.yaml");
const servicesOf = (...lines: string[]) => parse(...lines).services.map((service) => toJson(ServiceSchema, service));

/** The message of the UsageError that it throws. */
function refusal(...lines: string[]): string {
  try {
    parse(...lines);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  throw new Error("it was accepted");
}

describe("a manifest", () => {
  test("takes probes beside the other fields, those of the process and the one of an external service", () => {
    const [web, mail] = servicesOf(
      "services:",
      "  - name: web",
      "    command: [./web]",
      "    startup_probe: {notify: {fd: 7}}",
      "    readiness_probe: {grpc: {service: web, port: 50051}, period: 5s, failure_threshold: 2}",
      "    livenessProbe: {exec: {command: [./check]}, timeout: 1.5s}",
      "  - {name: mail, url: 'https://h:1', probe: {http: {path: /health}}}",
    );

    expect(web).toEqual({
      name: "web",
      spec: {
        managed: {
          command: ["./web"],
          startupProbe: { notify: { fd: 7 } },
          readinessProbe: { grpc: { service: "web", port: 50_051 }, period: "5s", failureThreshold: 2 },
          livenessProbe: { exec: { command: ["./check"] }, timeout: "1.500s" },
        },
      },
    });
    expect(mail).toEqual({
      name: "mail",
      spec: { external: { probe: { http: { path: "/health" } } }, url: "https://h:1" },
    });
  });

  test("lists flat services: with a command managed, without one external", () => {
    const { setName, services } = parse(
      "set: demo",
      "services:",
      "  - {name: web, url: 'http://127.0.0.1:0', command: [python3, -m, app], environment: {DEBUG: '1'}, cwd: /srv}",
      "  - {name: elsewhere, url: 'https://h:1', admin: true, api_token: super-secret, info: {a: [1, null]}}",
    );

    expect(setName).toBe("demo");
    expect(services.map((service) => toJson(ServiceSchema, service))).toEqual([
      {
        name: "web",
        spec: {
          managed: { command: ["python3", "-m", "app"], environment: { DEBUG: "1" }, cwd: "/srv" },
          url: "http://127.0.0.1:0",
        },
      },
      {
        name: "elsewhere",
        spec: { external: {}, url: "https://h:1", admin: true, apiToken: "super-secret", info: { a: [1, null] } },
      },
    ]);
  });

  test("may be JSON, a bare list, or a service as `get -o yaml` prints it", () => {
    const web = {
      name: "web",
      uid: "u",
      spec: { managed: { command: ["a"], stopGrace: "2s" } },
      status: { pid: 1 },
      etag: "e",
      revision: "9",
    };
    const wanted = [{ name: "web", spec: { managed: { command: ["a"], stopGrace: "2s" } } }];

    for (const text of [{ services: [web] }, [web], web]) expect(servicesOf(JSON.stringify(text))).toEqual(wanted);
  });

  test("lets a command be one word, and fields be written in camel case", () => {
    expect(servicesOf("- {name: a, command: run, stopGrace: 1s, oauthNoConfirm: true}")).toEqual([
      { name: "a", spec: { managed: { command: ["run"], stopGrace: "1s" }, oauthNoConfirm: true } },
    ]);
  });

  test.each([
    ["never", "RESTART_MODE_NEVER"],
    ["ON_FAILURE", "RESTART_MODE_ON_FAILURE"],
    ["RESTART_MODE_ALWAYS", "RESTART_MODE_ALWAYS"],
  ])("takes %s as a restart mode", (word, mode) => {
    expect(servicesOf(`- {name: a, command: run, restart_policy: {mode: ${word}}}`)).toMatchObject([
      { spec: { managed: { restartPolicy: { mode } } } },
    ]);
  });

  test.each([
    ["10", "10s"],
    ["0.5s", "0.500s"],
    ["250ms", "0.250s"],
    ["5m", "300s"],
  ])("takes %s as a duration", (written, stopGrace) => {
    expect(servicesOf(`- {name: a, command: run, stop_grace: ${written}}`)).toMatchObject([
      { spec: { managed: { stopGrace } } },
    ]);
  });

  test("may say things once with anchors and merge keys", () => {
    const services = servicesOf("- &base {name: a, command: [run], labels: {x: '1'}}", "- {<<: *base, name: b}");

    expect(services).toMatchObject([
      { name: "a" },
      { name: "b", spec: { labels: { x: "1" }, managed: { command: ["run"] } } },
    ]);
  });
});

describe("what is wrong is told with its file, line, service and field", () => {
  test.each([
    [
      "an unknown field",
      ["services:", "  - name: web", "    command: [a]", "    port: 1"],
      "f.yaml:4: services[0] (web): port: there is no such field",
    ],
    [
      "an unknown field of a nested spec",
      ["- name: web", "  spec:", "    managed:", "      comand: [a]"],
      "f.yaml:4: services[0] (web): spec.managed.comand: there is no such field",
    ],
    [
      "an unknown field of a policy",
      ["- name: web", "  command: [a]", "  restart_policy:", "    mod: never"],
      "f.yaml:4: services[0] (web): restart_policy.mod: there is no such field",
    ],
    [
      "an unknown field beside a spec",
      ["- name: web", "  spec: {external: {}}", "  command: [a]"],
      "f.yaml:3: services[0] (web): command: there is no such field",
    ],
    [
      "an unknown restart mode",
      ["- name: web", "  command: [a]", "  restart_policy: {mode: sometimes}"],
      'f.yaml:3: services[0] (web): restart_policy.mode: expected one of ALWAYS, ON_FAILURE, NEVER, not "sometimes"',
    ],
    [
      "a number in the environment",
      ["- name: web", "  command: [a]", "  environment:", "    A: '1'", "    B: 2"],
      "f.yaml:5: services[0] (web): environment.B: expected text, not 2; put it in quotes",
    ],
    [
      "a number in a command",
      ["- name: web", "  command:", "    - sleep", "    - 5"],
      "f.yaml:4: services[0] (web): command.1: expected text, not 5; put it in quotes",
    ],
    [
      "a word that is no boolean",
      ["- {name: a}", "- name: web", "  admin: maybe"],
      'f.yaml:3: services[1] (web): admin: expected boolean, got "maybe"',
    ],
    [
      "a bad duration",
      ["- name: web", "  command: [a]", "  stopGrace: soon"],
      'f.yaml:3: services[0] (web): stop_grace: a duration is a number with ms, s, m, h or d, such as 30s, not "soon"',
    ],
    [
      "a policy that is a word",
      ["- name: web", "  command: [a]", "  restart_policy: never"],
      'f.yaml:3: services[0] (web): restart_policy: expected the fields of restart_policy, not "never"',
    ],
    [
      "a service without a name",
      ["services:", "  - {name: a}", "  - command: [a]"],
      "f.yaml:3: services[1].name: expected the service's name",
    ],
    [
      "an entry that is a word",
      ["services: [web]"],
      "f.yaml:1: services[0]: expected a service, such as {name: …, command: […]}",
    ],
    [
      "an unknown key at the top",
      ["sett: demo", "services: []"],
      "f.yaml:1: sett: there is no such field beside set and services",
    ],
    ["a set that is no name", ["services: []", "set: [a]"], "f.yaml:2: set: expected a name"],
    ["nothing", [""], 'f.yaml: expected a list of services under the key "services"'],
    ["services that are no list", ["services: {a: b}"], 'f.yaml: expected a list of services under the key "services"'],
  ])("%s", (_, lines, message) => {
    expect(refusal(...lines)).toBe(message);
  });

  test.each([
    ["no YAML", ["services:", "  - {name: a"], /^f\.yaml: .*at line 2, column/],
    ["a key twice", ["- name: a", "  name: b"], /^f\.yaml: Map keys must be unique at line 2/],
    ["an alias of nothing", ["- *nothing"], /^f\.yaml: .*nothing/],
  ])("%s", (_, lines, message) => {
    expect(refusal(...lines)).toMatch(message);
  });
});

describe("a field that the server finds wrong", () => {
  test("is found in the file, however the service is written", () => {
    const { placeOf } = parse(
      "set: a b",
      "services:",
      "  - name: flat",
      "    url: ftp://h",
      "    command: [a,",
      "      b]",
      "    environment:",
      "      A: '1'",
      "  - name: nested",
      "    spec:",
      "      managed:",
      "        restartPolicy:",
      "          maxDelay: 1s",
    );

    const lines = {
      "services[0]": 3,
      "services[0].spec.url": 4,
      "services[0].spec.managed.command[1]": 6,
      'services[0].spec.managed.environment["A"]': 8,
      "services[0].spec.managed.cwd": 3,
      "services[1].name": 9,
      "services[1].spec.managed.restart_policy.max_delay": 13,
      set_name: 1,
    };
    for (const [field, line] of Object.entries(lines))
      expect([field, placeOf(field)]).toEqual([field, `f.yaml:${line}`]);
  });
});
