#!/usr/bin/env node
// Makes the npm compiler look like a native solc: forge asks for `--version`, then sends standard
// JSON on stdin and wants only JSON back. So forge never downloads a compiler, and the version is
// the one package-lock.json pins.
import { readFileSync } from "node:fs";
import solc from "solc";

if (process.argv.includes("--version")) {
  console.log(`solc, the solidity compiler commandline interface\nVersion: ${solc.version()}`);
} else {
  process.stdout.write(solc.compile(readFileSync(0, "utf8")));
}
