import { existsSync, mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";

/** The shells that are here; each must be called sh. */
export function shells(): { name: string; path: (directory: string) => string }[] {
  const link = (target: string) => (directory: string) => {
    mkdirSync(join(directory, "bin"), { recursive: true });
    const path = join(directory, "bin", "sh");
    if (!existsSync(path)) symlinkSync(target, path);
    return path;
  };
  return [
    { name: "sh", path: () => "/bin/sh" },
    ...["/bin/dash", "/bin/bash", "/bin/busybox"].filter(existsSync).map((path) => ({ name: path, path: link(path) })),
  ];
}
