import fc from "fast-check";
import { expect, test } from "vitest";
import { reservedEnvironment } from "../../src/domain/service-spec.ts";
import { buildEnvironment, type EnvironmentInput, HOST_VARIABLES } from "../../src/supervisor/environment.ts";

const account = { name: "alice", uid: 1001, gid: 1001, home: "/home/alice", shell: "/bin/bash" };
const input: EnvironmentInput = {
  host: { PATH: "/usr/bin", LANG: "C.UTF-8", HOME: "/root", SECRETVAR: "x", TZ: undefined },
  service: {
    name: "whoami",
    instanceId: "instance-1",
    apiToken: "token",
    clientId: "service-whoami",
    url: "http://127.0.0.1:10101",
    oauthCallbackUrl: undefined,
  },
  platform: {
    apiUrl: "http://127.0.0.1:8081/hub/api",
    baseUrl: "/",
    publicHost: "https://hub.example.org",
    publicUrl: "https://hub.example.org/services/whoami/",
    publicHubUrl: "https://hub.example.org/hub/",
    stewardAddress: "http://127.0.0.1:8090",
  },
  environment: {},
  user: undefined,
  account: undefined,
};

test("a service with a url gets the whole contract and nothing else", () => {
  const scopes = '["access:services","access:services!service=whoami"]';

  expect(Object.fromEntries(buildEnvironment(input))).toEqual({
    PATH: "/usr/bin",
    LANG: "C.UTF-8",
    JUPYTERHUB_SERVICE_NAME: "whoami",
    JUPYTERHUB_SERVICE_PREFIX: "/services/whoami/",
    JUPYTERHUB_SERVICE_URL: "http://127.0.0.1:10101",
    JUPYTERHUB_API_TOKEN: "token",
    JPY_API_TOKEN: "token",
    JUPYTERHUB_API_URL: "http://127.0.0.1:8081/hub/api",
    JUPYTERHUB_BASE_URL: "/",
    JUPYTERHUB_CLIENT_ID: "service-whoami",
    JUPYTERHUB_HOST: "https://hub.example.org",
    JUPYTERHUB_PUBLIC_URL: "https://hub.example.org/services/whoami/",
    JUPYTERHUB_PUBLIC_HUB_URL: "https://hub.example.org/hub/",
    JUPYTERHUB_OAUTH_CALLBACK_URL: "/services/whoami/oauth_callback",
    JUPYTERHUB_OAUTH_ACCESS_SCOPES: scopes,
    JUPYTERHUB_OAUTH_SCOPES: scopes,
    JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES: "[]",
    JUPYTERHUB_USER: "",
    JUPYTERHUB_SERVER_NAME: "",
    JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED: "0",
    STEWARD_ADDRESS: "http://127.0.0.1:8090",
    STEWARD_INSTANCE: "instance-1",
  });
});

test("a service without a url is told no address and no prefix", () => {
  const environment = buildEnvironment({
    ...input,
    service: { ...input.service, url: undefined },
    environment: { JUPYTERHUB_SERVICE_URL: "http://elsewhere" },
  });

  expect(environment.has("JUPYTERHUB_SERVICE_URL")).toBe(false);
  expect(environment.has("JUPYTERHUB_SERVICE_PREFIX")).toBe(false);
  expect(environment.get("JUPYTERHUB_PUBLIC_URL")).toBe("");
  expect(environment.get("JUPYTERHUB_OAUTH_CALLBACK_URL")).toBe("oauth_callback");
});

test("the spec overrides the host and the contract", () => {
  const environment = buildEnvironment({ ...input, environment: { PATH: "/opt", JUPYTERHUB_API_URL: "http://mine" } });

  expect(environment.get("PATH")).toBe("/opt");
  expect(environment.get("JUPYTERHUB_API_URL")).toBe("http://mine");
});

test("a switched user's account beats the spec; Steward's own is only a default", () => {
  const environment = { HOME: "/elsewhere" };

  const switched = buildEnvironment({ ...input, environment, user: "alice", account });
  const own = buildEnvironment({ ...input, environment, account });

  expect([switched.get("HOME"), switched.get("USER"), switched.get("LOGNAME")]).toEqual([
    "/home/alice",
    "alice",
    "alice",
  ]);
  expect([switched.get("SHELL"), switched.get("JUPYTERHUB_USER")]).toEqual(["/bin/bash", "alice"]);
  expect([own.get("HOME"), own.get("USER"), own.get("JUPYTERHUB_USER")]).toEqual(["/elsewhere", "alice", ""]);
});

const variable = fc.oneof(
  fc.constantFrom(...reservedEnvironment, ...HOST_VARIABLES, "HOME", "SECRETVAR"),
  fc.stringMatching(/^[A-Z_]{1,6}$/),
);
const variables = fc.dictionary(variable, fc.string(), { noNullPrototype: true });

test("whatever the spec and the host say, identity stands and no other host variable appears", () => {
  fc.assert(
    fc.property(variables, variables, fc.boolean(), (host, environment, hasUrl) => {
      const service = { ...input.service, url: hasUrl ? input.service.url : undefined };
      const plain = buildEnvironment({ ...input, host: {}, service });
      const built = buildEnvironment({ ...input, host, environment, service });

      for (const name of reservedEnvironment) expect(built.get(name)).toBe(plain.get(name));
      for (const name of built.keys()) {
        expect(plain.has(name) || HOST_VARIABLES.has(name) || name in environment).toBe(true);
      }
      for (const [name, value] of Object.entries(host)) {
        if (HOST_VARIABLES.has(name) && !(name in environment)) expect(built.get(name)).toBe(value);
      }
    }),
  );
});
