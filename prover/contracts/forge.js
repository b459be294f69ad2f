// Runs the forge that package-lock.json pins: `node forge.js test -vvv`. The executables come in a package
// per platform, without the shim package, whose install script we would not run. Locked is the one for
// linux x64; another platform's is found as well once installed.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

export const contractsDirectory = dirname(fileURLToPath(import.meta.url));
const version = "1.7.1"; // as in package.json

/** Path of `forge`, `anvil` or `cast` for this machine; throws if the package is not installed. */
export function toolPath(tool) {
  const cpu = { x64: "amd64", arm64: "arm64" }[process.arch];
  const packageName = `${tool}-${process.platform}-${cpu}`;
  const path = join(contractsDirectory, "node_modules", "@foundry-rs", packageName, "bin", tool);
  if (!existsSync(path)) {
    const install =
      packageName === `${tool}-linux-amd64`
        ? "npm ci --ignore-scripts"
        : `npm install --no-save --ignore-scripts @foundry-rs/${packageName}@${version}`;
    throw new Error(`no \`${tool}\` for ${process.platform} ${process.arch}: run \`${install}\``);
  }
  return path;
}

/** Runs forge in this directory with its output on ours, and returns its exit code. */
export function runForge(args) {
  const result = spawnSync(toolPath("forge"), args, { cwd: contractsDirectory, stdio: "inherit" });
  if (result.error) throw result.error;
  return result.status ?? 1;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  process.exitCode = runForge(process.argv.slice(2));
}
