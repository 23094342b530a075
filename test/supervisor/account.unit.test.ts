import { expect, test } from "vitest";
import { type Account, Accounts } from "../../src/supervisor/account.ts";

const rules = { ownUid: 0, allowRoot: true };

/** A user database whose answers are the test's, and a time that is too. */
class Desk {
  nowMs = 0;
  asked = 0;
  answer: () => Promise<Account | undefined> = () => Promise.resolve(undefined);
  readonly accounts = new Accounts(rules, {
    monotonicMs: () => this.nowMs,
    lookUp: () => {
      this.asked++;
      return this.answer();
    },
  });
}

function account(uid: number): Account {
  return { name: "ada", uid, gid: uid, home: "/home/ada", shell: "/bin/sh" };
}

test("an answer is believed for a while, and then once more while it is asked again", async () => {
  const desk = new Desk();
  desk.answer = () => Promise.resolve(account(1));
  await desk.accounts.resolve("ada");
  desk.answer = () => Promise.resolve(account(2));

  desk.nowMs = 9_999;
  expect([(await desk.accounts.resolve("ada")).uid, desk.asked]).toEqual([1, 1]);
  desk.nowMs = 10_000;
  expect([(await desk.accounts.resolve("ada")).uid, desk.asked]).toEqual([1, 2]);
  expect([(await desk.accounts.resolve("ada")).uid, desk.asked]).toEqual([2, 2]);
});

test("an old answer is not believed any more", async () => {
  const desk = new Desk();
  desk.answer = () => Promise.resolve(account(1));
  await desk.accounts.resolve("ada");
  desk.answer = () => Promise.resolve(account(2));

  desk.nowMs = 600_000;

  expect((await desk.accounts.resolve("ada")).uid).toBe(2);
});

test("a user database that fails leaves what was known, and is asked again", async () => {
  const desk = new Desk();
  desk.answer = () => Promise.resolve(account(1));
  await desk.accounts.resolve("ada");
  desk.answer = () => Promise.reject(new Error("away"));

  desk.nowMs = 20_000;
  expect((await desk.accounts.resolve("ada")).uid).toBe(1);
  expect((await desk.accounts.resolve("ada")).uid).toBe(1);
  expect(desk.asked).toBe(3);
});

test("a first question that fails is no answer", async () => {
  const desk = new Desk();
  desk.answer = () => Promise.reject(new Error("away"));

  await expect(desk.accounts.resolve("ada")).rejects.toThrow("away");
  desk.answer = () => Promise.resolve(account(1));
  expect((await desk.accounts.resolve("ada")).uid).toBe(1);
});
