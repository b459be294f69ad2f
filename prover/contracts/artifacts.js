// The committed artifacts: what Rust reads to deploy and call the contracts, without Node or a compiler.
//   node artifacts.js write    rebuild and write them
//   node artifacts.js check    rebuild and fail if a committed one differs
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { contractsDirectory, runForge } from "./forge.js";

const contractNames = ["RewardDistributor", "TestToken"];

/** Compiles from nothing, in a directory of its own, and returns the text of each artifact by its path. */
function rebuild() {
  const out = mkdtempSync(join(tmpdir(), "fieldproof-artifacts-"));
  try {
    const directories = ["--out", join(out, "out"), "--cache-path", join(out, "cache")];
    if (runForge(["build", "src", "--force", ...directories]) !== 0) throw new Error("the sources do not build");
    return contractNames.map((name) => {
      const { abi, bytecode } = JSON.parse(readFileSync(join(out, "out", `${name}.sol`, `${name}.json`), "utf8"));
      const text = JSON.stringify({ abi, bytecode: { object: bytecode.object } }, null, 2) + "\n";
      return { path: join("artifacts", `${name}.json`), text };
    });
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

/** The committed text, or nothing if there is none. */
function committed(path) {
  try {
    return readFileSync(join(contractsDirectory, path), "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

switch (process.argv[2]) {
  case "write":
    for (const { path, text } of rebuild()) writeFileSync(join(contractsDirectory, path), text);
    break;
  case "check":
    for (const { path, text } of rebuild()) {
      const same = committed(path) === text;
      console.log(`${path}: ${same ? "as built" : "differs from what the sources build; run `npm run artifacts`"}`);
      if (!same) process.exitCode = 1;
    }
    break;
  default:
    console.error("usage: node artifacts.js write|check");
    process.exitCode = 2;
}
