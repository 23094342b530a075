/** Where a service is asked. */
export interface Address {
  /** Without the brackets of IPv6. */
  readonly host: string;
  readonly port: number;
  readonly isTls: boolean;
}

/** The address of a service's url, with the port that a probe names; without a url it is on loopback. */
export function addressOf(url: string | undefined, port: number | undefined): Address {
  const { hostname, protocol, port: own } = new URL(url ?? "http://127.0.0.1");
  const isTls = protocol === "https:";
  const host = hostname.replaceAll(/^\[|\]$/g, "");
  return { host, port: port ?? (own === "" ? (isTls ? 443 : 80) : Number(own)), isTls };
}

export function originOf({ host, port, isTls }: Address): string {
  return `${isTls ? "https" : "http"}://${hostPort({ host, port })}`;
}

export function hostPort({ host, port }: Pick<Address, "host" | "port">): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}
