import { mkdirSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { type ManagedService, publicPrefix } from "../domain/service.ts";
import { picksPort, withPort } from "../domain/service-url.ts";
import { notifyDescriptor } from "../domain/spec-update.ts";
import type { Account, Accounts } from "./account.ts";
import { resolveCommand } from "./command.ts";
import { buildEnvironment, type Platform } from "./environment.ts";
import type { InstanceReference } from "./instance-handle.ts";
import type { LaunchRequest } from "./launcher.ts";
import type { LimitRules } from "./limit-rules.ts";
import type { OutputKeeper } from "./output-keeper.ts";
import { findFreePort, type PortRange } from "./port.ts";
import { type CommandSetting, settingOfAdopted } from "./probes/command-setting.ts";

export interface HostOptions {
  readonly stateDir: string;
  readonly portRange: PortRange;
  /** What services may inherit of our own environment. */
  readonly inheritedEnvironment: Readonly<Record<string, string>>;
  readonly accounts: Accounts;
  readonly limitRules: LimitRules;
  readonly outputKeeper: OutputKeeper;
  readonly platform: Omit<Platform, "publicUrl">;
  /** The origin that the public reaches the proxy at; empty if unknown. */
  readonly publicOrigin: string;
}

/** Where the output of a service lies, over all its instances. */
export interface OutputPaths {
  readonly stdoutPath: string;
  readonly stderrPath: string;
}

/** What this machine gives the instances of its services: directories, ports, accounts, an environment. */
export class Host {
  readonly #options: HostOptions;
  /** The ports that are in use, by instance, and the last one of each service. */
  readonly #ports = new Map<string, number>();
  readonly #lastPorts = new Map<string, number>();
  /** For each service whose output is followed: aborts when nothing more will be written. */
  readonly #outputEnds = new Map<string, AbortController>();
  /** One search for a port at a time: two at once would find the same. */
  #searching: Promise<unknown> = Promise.resolve();

  constructor(options: HostOptions) {
    this.#options = options;
  }

  runDir(instanceId: string): string {
    return join(this.#options.stateDir, "run", instanceId);
  }

  outputPaths(serviceUid: string): OutputPaths {
    const directory = join(this.#options.stateDir, "logs", serviceUid);
    return { stdoutPath: join(directory, "stdout.log"), stderrPath: join(directory, "stderr.log") };
  }

  /** Makes the log files of a service and bounds them from now on. */
  async keepOutput(serviceUid: string): Promise<OutputPaths> {
    const paths = this.outputPaths(serviceUid);
    mkdirSync(join(this.#options.stateDir, "logs", serviceUid), { recursive: true, mode: 0o700 });
    await this.#options.outputKeeper.keep(paths.stdoutPath);
    await this.#options.outputKeeper.keep(paths.stderrPath);
    return paths;
  }

  /** Removes the output of a service that is gone. */
  async forgetOutput(serviceUid: string): Promise<void> {
    const { stdoutPath, stderrPath } = this.outputPaths(serviceUid);
    await this.#options.outputKeeper.release(stdoutPath);
    await this.#options.outputKeeper.release(stderrPath);
    await rm(join(this.#options.stateDir, "logs", serviceUid), { recursive: true, force: true });
    this.#outputEnds.get(serviceUid)?.abort();
    this.#outputEnds.delete(serviceUid);
  }

  /** Aborts when the output of a service was removed. */
  outputClosed(serviceUid: string): AbortSignal {
    const end = this.#outputEnds.get(serviceUid) ?? new AbortController();
    this.#outputEnds.set(serviceUid, end);
    return end.signal;
  }

  /** The url of an instance: as the spec says, with a port of ours where it says 0, the same as before where that can be. */
  async chooseUrl(service: ManagedService, instanceId: string): Promise<string | undefined> {
    const { url } = service.spec;
    if (url === undefined || !picksPort(url)) return url;
    const found = this.#searching.then(() => this.#pickPort(service, instanceId, url));
    this.#searching = found.catch(() => undefined);
    return withPort(url, await found);
  }

  async #pickPort(service: ManagedService, instanceId: string, url: string): Promise<number> {
    const avoid = new Set(this.#ports.values());
    const last = this.#lastPorts.get(service.uid) ?? portIn(service.status.url);
    const preferred = last !== undefined && !avoid.has(last) ? last : undefined;
    // The port that a service had is kept for it.
    for (const [uid, port] of this.#lastPorts) if (uid !== service.uid) avoid.add(port);
    const host = new URL(url).hostname.replaceAll(/^\[|\]$/g, "");
    const port = await findFreePort({ range: this.#options.portRange, avoid, preferred, host });
    this.#ports.set(instanceId, port);
    this.#lastPorts.set(service.uid, port);
    return port;
  }

  /** Notes the port of an instance that was adopted, so that nobody else is given it. */
  claimPort(instanceId: string, url: string | undefined): void {
    const port = portIn(url);
    if (port !== undefined) this.#ports.set(instanceId, port);
  }

  releasePort(instanceId: string): void {
    this.#ports.delete(instanceId);
  }

  /** Forgets the port that a service had; it is gone. */
  forgetPort(serviceUid: string): void {
    this.#lastPorts.delete(serviceUid);
  }

  /** Everything that a start needs. Throws an AppError that says why it cannot be. */
  async prepare(
    service: ManagedService,
    instanceId: string,
    url: string | undefined,
    apiToken: string,
  ): Promise<LaunchRequest> {
    const { kind } = service.spec;
    const { accounts, limitRules } = this.#options;
    const account = kind.user === undefined ? undefined : await accounts.resolve(kind.user);
    const held = await limitRules.apply(kind.limits, accounts.uidOf(account), "service.spec.managed.limits");
    const environment = await this.#environment(service, instanceId, url, apiToken, account);
    const other = account !== undefined && accounts.isOther(account) ? account : undefined;
    const [command, ...args] = kind.command;
    const program = await resolveCommand({ command, cwd: kind.cwd, path: environment.get("PATH"), account: other });
    const paths = await this.keepOutput(service.uid);
    return {
      instanceId,
      runDir: this.runDir(instanceId),
      ...paths,
      argv: [program, ...args],
      cwd: kind.cwd,
      environment,
      account: other,
      ...held,
      notifyFd: notifyDescriptor(kind),
    };
  }

  /** How the commands of an instance run that another server started. Throws when that cannot be told. */
  async settingOf(service: ManagedService, instance: InstanceReference): Promise<CommandSetting> {
    const { user, cwd } = service.spec.kind;
    const { accounts } = this.#options;
    const account = user === undefined ? undefined : await accounts.resolve(user);
    const other = account !== undefined && accounts.isOther(account) ? account : undefined;
    return settingOfAdopted(instance, { account: other, cwd, ownUid: accounts.ownUid });
  }

  async #environment(
    service: ManagedService,
    instanceId: string,
    url: string | undefined,
    apiToken: string,
    account: Account | undefined,
  ): Promise<Map<string, string>> {
    const { platform, publicOrigin, inheritedEnvironment, accounts } = this.#options;
    const publicUrl = publicOrigin === "" ? "" : `${publicOrigin}${publicPrefix(service.name)}`;
    return buildEnvironment({
      host: inheritedEnvironment,
      service: {
        name: service.name,
        instanceId,
        apiToken,
        clientId: service.spec.oauthClientId,
        url,
        oauthCallbackUrl: undefined,
      },
      platform: { ...platform, publicUrl },
      environment: service.spec.kind.environment,
      user: service.spec.kind.user,
      account: account ?? (await accounts.own()),
    });
  }
}

function portIn(url: string | undefined): number | undefined {
  const port = url === undefined ? 0 : Number(new URL(url).port);
  return port === 0 ? undefined : port;
}
