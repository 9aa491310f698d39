// Runs tests in Pyodide, CPython for WebAssembly. What fails for want of a package, thread or process counts as skipped.
// usage: node scripts/pyodide.mjs PYODIDE PACKAGES [PYTEST ARGUMENTS]
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [pyodide, packages, ...args] = process.argv.slice(2);
const { loadPyodide } = createRequire(import.meta.url)(resolve(pyodide, "pyodide.js"));
const python = await loadPyodide({ indexURL: resolve(pyodide) + "/" });
for (const [at, root] of [["/menura", resolve(".")], ["/packages", resolve(packages)]]) {
  python.FS.mkdir(at);
  python.FS.mount(python.FS.filesystems.NODEFS, { root }, at);
}
python.globals.set("args", python.toPy(args));
process.exit(python.runPython(`
import errno, os, sys

sys.path[:0] = ["/menura/src", "/menura/tests", "/menura", "/packages"]
sys.dont_write_bytecode = True
os.chdir("/menura")
import pytest

MISSING = (
    "ModuleNotFoundError: ", "can't start new thread", "only soft file lock",
    f"[Errno {errno.ENOSYS}]", f"[Errno {errno.ENOTSUP}]", f"[Errno {errno.EPERM}]", "no attribute 'mkfifo'",
)

class Lacking:
    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector):
        return skipped((yield))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        return skipped((yield))

def skipped(report):
    if report.failed and any(text in str(report.longrepr) for text in MISSING):
        report.outcome = "skipped"
        report.longrepr = ("", 0, "Skipped: Pyodide lacks what it needs")
    return report

print(sys.version)
int(pytest.main(["-p", "no:cacheprovider", "--continue-on-collection-errors", *args], [Lacking()]))
`));
