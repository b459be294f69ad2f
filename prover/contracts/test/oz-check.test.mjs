// oz-check.mjs against a tree that OpenZeppelin's library made, and against that tree damaged.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";

const program = fileURLToPath(new URL("../oz-check.mjs", import.meta.url));
const goldenPath = fileURLToPath(new URL("testdata/standard-v1.json", import.meta.url));
const golden = JSON.parse(readFileSync(goldenPath, "utf8"));
const directory = mkdtempSync(join(tmpdir(), "fieldproof-oz-check-"));
after(() => rmSync(directory, { recursive: true, force: true }));

function run(...args) {
  return spawnSync(process.execPath, [program, ...args], { encoding: "utf8" });
}

/** Runs the check of the golden tree's first claim on a changed copy of the tree. */
function runOn(change) {
  const dump = change(structuredClone(golden));
  const path = join(directory, "tree.json");
  writeFileSync(path, JSON.stringify(dump));
  const [, account, , cumulative] = golden.values[0].value;
  return run(path, account, cumulative);
}

test("P1: every claim of the golden tree proves, in any case of the address", () => {
  for (const { value } of golden.values) {
    const [, account, , cumulative] = value;
    for (const spelling of [account, `0x${account.slice(2).toUpperCase()}`]) {
      const { status, stdout, stderr } = run(goldenPath, spelling, cumulative);
      assert.equal(status, 0, stderr);
      const claim = JSON.parse(stdout);
      assert.deepEqual(Object.keys(claim), ["root", "leaf", "proof", "cumulative"]);
      assert.equal(claim.root, golden.tree[0]);
      assert.equal(claim.cumulative, cumulative);
      assert.ok(golden.tree.includes(claim.leaf));
      assert.ok(StandardMerkleTree.verify(claim.root, golden.leafEncoding, value, claim.proof));
    }
  }
});

const remade = (change) => (dump) => {
  const values = dump.values.map(({ value }) => value);
  change(values);
  return StandardMerkleTree.of(values, dump.leafEncoding).dump();
};
const refusals = [
  ["P1: one flipped bit in the amount", (d) => ((d.values[0].value[3] = String(BigInt(d.values[0].value[3]) ^ 1n)), d)],
  ["P1: one flipped bit in the root", (d) => ((d.tree[0] = d.tree[0].replace(/.$/, (c) => (c === "0" ? "1" : "0"))), d)],
  ["P1: one flipped bit in a node", (d) => ((d.tree[2] = d.tree[2].replace(/.$/, (c) => (c === "0" ? "1" : "0"))), d)],
  ["a changed leaf encoding", (d) => ((d.leafEncoding[0] = "bytes32"), d)],
  ["another format", (d) => ((d.format = "simple-v1"), d)],
  ["an amount in a sound tree that is not the asked one", remade((v) => (v[0][3] = "5"))],
  ["an account in two leaves", remade((v) => (v[1][1] = v[0][1]))],
  ["leaves of two domains", remade((v) => (v[1][0] = "1"))],
  ["leaves of two tokens", remade((v) => (v[1][2] = v[1][1]))],
  ["no leaf of the account", remade((v) => v.shift())],
];
for (const [name, change] of refusals) {
  test(`refused: ${name}`, () => {
    const { status, stdout, stderr } = runOn(change);
    assert.equal(status, 1, stderr);
    assert.equal(stdout, "");
    assert.match(stderr, /^oz-check: .+\n$/);
  });
}

test("wrong arguments are a usage error", () => {
  for (const args of [[], [goldenPath], [goldenPath, "0x12", "1"], [goldenPath, golden.values[0].value[1], "-1"]]) {
    assert.equal(run(...args).status, 2);
  }
});
