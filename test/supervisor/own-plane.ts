import { createTestDatabase } from "../support/postgres.ts";
import { Plane, type PlaneOptions } from "./plane.ts";
import { StateDirectory } from "./state-directory.ts";

/** A control plane with a database and a state directory that are a test's own. */
export interface OwnPlane {
  readonly plane: Plane;
  readonly stateDirectory: StateDirectory;
  /** Stops it and removes everything that came of it, processes too. `unmount` is called when nothing runs there any more. */
  clear(unmount?: () => void): Promise<void>;
}

export async function openPlane(options: Omit<PlaneOptions, "connection" | "stateDir"> = {}): Promise<OwnPlane> {
  const database = await createTestDatabase();
  const stateDirectory = new StateDirectory();
  const plane = new Plane({ connection: database.connection, stateDir: stateDirectory.path, ...options });
  const clear = async (unmount?: () => void) => {
    await plane.stop();
    await stateDirectory.clear(unmount);
    await database.drop();
  };
  try {
    await plane.start();
    return { plane, stateDirectory, clear };
  } catch (error) {
    await clear();
    throw error;
  }
}
