"""Devices, cores and threads."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from menura.errors import DeviceError, OptionError, ResourceError
from menura.system import device, gpu
from support.gpus import fake_gpus

NO_KERNEL = "no kernel image is available for execution on the device"


def test_cpu_and_auto_are_devices() -> None:
    assert device.resolve_device("cpu").type == "cpu"
    assert device.resolve_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:", "cuda:x", "", "mps:0"])
def test_unknown_device_is_an_option_error(name: str) -> None:
    with pytest.raises(OptionError, match="not one of auto, cpu"):
        device.resolve_device(name)


def test_absent_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.resolve_device("auto").type == "cpu"
    with pytest.raises(OptionError, match="no usable NVIDIA or AMD GPU"):
        device.resolve_device("cuda")
    with pytest.raises(OptionError, match="Apple"):
        device.resolve_device("mps")
    fake_gpus(monkeypatch, 2)
    assert str(device.resolve_device("cuda:1")) == "cuda:1"
    assert str(device.resolve_device("auto")) == "cuda"
    with pytest.raises(OptionError, match="last one is cuda:1"):
        device.resolve_device("cuda:2")


def test_a_gpu_that_this_torch_cannot_use_is_told_before_work_begins(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_gpus(monkeypatch, 1, NO_KERNEL)
    monkeypatch.setattr(device, "_works", functools.cache(device._works))
    assert [device.resolve_device("auto").type for _ in range(3)] == ["cpu"] * 3
    assert [(record.levelname, NO_KERNEL in record.message) for record in caplog.records] == [("WARNING", True)]
    with pytest.raises(OptionError, match=f"can't compute on cuda:0 .{NO_KERNEL}") as told:
        device.resolve_device("cuda:0")
    assert "{device=cpu}" in str(told.value.advice)
    assert device.resolve_device("cpu").type == "cpu"
    assert len(caplog.records) == 1


def test_a_device_is_tried_by_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert gpu.failure_of(cpu) == ""
    if not torch.cuda.is_available():
        assert gpu.failure_of(torch.device("cuda")) != ""

    def fail(*_: object) -> torch.Tensor:
        raise RuntimeError(f"CUDA error: {NO_KERNEL}\nCUDA kernel errors might be asynchronously reported")

    monkeypatch.setattr(torch, "conv1d", fail)
    assert gpu.failure_of(cpu) == f"CUDA error: {NO_KERNEL}"


@pytest.mark.parametrize(
    ("names", "counted"),
    [
        (["nvidia3"], True),
        (["nvidia0", "nvidia12", "nvidiactl"], True),
        (["kfd"], True),
        (["dxg"], True),
        (["nvidiactl", "nvidia-uvm", "nvidia-caps", "null"], False),
        ([], False),
    ],
)
def test_torch_is_asked_where_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: list[str], counted: bool
) -> None:
    for name in names:
        (tmp_path / name).touch()
    monkeypatch.setattr(gpu, "_DEVICES", tmp_path)
    monkeypatch.setattr(gpu.sys, "platform", "linux")
    fake_gpus(monkeypatch, 2)
    assert gpu.cuda_devices() == (2 if counted else 0)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without NVIDIA's driver, and without a GPU that torch can use; the folder of what stands for it."""
    monkeypatch.setattr(gpu, "_DRIVER_FILE", tmp_path / "version")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SYSTEMROOT", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path


SAYS = {
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n": "535.129.03",
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build\n": "560.35.03",
    "": "",
}


@pytest.mark.parametrize(("said", "version"), SAYS.items())
def test_the_drivers_version_on_linux(no_driver: Path, said: str, version: str) -> None:
    (no_driver / "version").write_text(said)
    assert gpu.nvidia_driver() == version


@pytest.mark.parametrize(("script", "version"), [("echo 566.36", "566.36"), ("echo no driver; exit 9", "")])
def test_the_drivers_version_by_its_tool(no_driver: Path, script: str, version: str) -> None:
    tool = no_driver / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    assert gpu.nvidia_driver() == version


def test_a_driver_on_windows_whose_tool_is_not_found(no_driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.sys, "platform", "win32")
    monkeypatch.setattr(gpu.shutil, "which", lambda _: None)
    assert gpu.nvidia_driver() == ""
    (no_driver / "System32").mkdir()
    (no_driver / "System32" / "nvcuda.dll").touch()
    assert gpu.nvidia_driver() == "of unknown version"


def test_a_gpu_that_lies_idle_is_told_with_the_command_that_mends_it(
    no_driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu.unused_gpu() == ""
    (no_driver / "version").write_text(next(iter(SAYS)))
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(gpu.sys, "executable", "C:\\Program Files\\python.exe")
    told = gpu.unused_gpu()
    assert "(535.129.03) is installed, but this PyTorch was built without CUDA" in told
    assert '"C:\\Program Files\\python.exe" -m pip install --force-reinstall torch --index-url URL' in told
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "built for CUDA 12.8, can't use it. Update the driver, or run " in gpu.unused_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # nobody wants it
    assert gpu.unused_gpu() == ""


def test_a_gpu_without_kernels_is_told(no_driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA GeForce GTX 1080")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    monkeypatch.setattr(gpu, "failure_of", lambda _: NO_KERNEL)
    told = gpu.unused_gpu()
    assert f"can't compute on NVIDIA GeForce GTX 1080 (compute capability 6.1): {NO_KERNEL}." in told
    assert "pip install" in told
    monkeypatch.setattr(gpu, "failure_of", lambda _: "")
    assert gpu.unused_gpu() == ""


def test_the_doctor_says_so(no_driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from menura.cli import doctor

    monkeypatch.setattr(torch.version, "cuda", None)
    (no_driver / "version").write_text(next(iter(SAYS)))
    findings = doctor._findings(no_driver)
    assert findings["device"]["nvidia_driver"] == "535.129.03"
    assert sum("built without CUDA" in line for line in findings["advice"]) == 1


LASTING = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: unspecified launch failure",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: misaligned address",
    "CUDA error: an illegal instruction was encountered",
    "CUDA error: unknown error",
    "HIP error: an illegal memory access was encountered",
    "device lost",
]


@pytest.mark.parametrize("text", LASTING)
def test_errors_that_never_pass_are_told_in_one_line(text: str) -> None:
    with pytest.raises(DeviceError) as told, gpu.lasting_errors():
        raise RuntimeError(text)
    assert text.splitlines()[0] in told.value.problem
    assert "asynchronously" not in str(told.value)
    assert "{device=cpu}" in str(told.value.advice)


def test_others_pass_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (RuntimeError("shapes can't be multiplied"), ValueError("device lost")):
        with pytest.raises(type(error)) as told, gpu.lasting_errors():
            raise error
        assert told.value is error
    with pytest.raises(RuntimeError, match="shapes"), gpu.device_errors(torch.device("cpu")):
        raise RuntimeError("shapes can't be multiplied")
    monkeypatch.setattr(gpu, "failure_of", lambda _: "")
    with pytest.raises(RuntimeError, match="out of memory"), gpu.device_errors(torch.device("cuda")):
        raise RuntimeError("CUDA out of memory")
    with pytest.raises(ResourceError, match="CUDNN_STATUS_NOT_SUPPORTED"), gpu.device_errors(torch.device("cuda")):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")
    monkeypatch.setattr(gpu, "failure_of", lambda _: "CUDA error: a new one that lasts")
    with pytest.raises(DeviceError, match="a new one"), gpu.device_errors(torch.device("cuda")):
        raise RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")
    monkeypatch.setattr(gpu, "failure_of", lambda _: "CUDA out of memory")  # a full card isn't a broken one
    with pytest.raises(ResourceError), gpu.device_errors(torch.device("cuda")):
        raise RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")


def fake_cpus(monkeypatch: pytest.MonkeyPatch, root: Path, siblings: dict[int, str]) -> None:
    for cpu, threads in siblings.items():
        folder = root / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(threads + "\n")
    monkeypatch.setattr(device, "_CPU_TOPOLOGY", root)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(siblings), raising=False)
    monkeypatch.setattr(device, "_OWN_CGROUP", root / "none")


def test_hyper_threads_count_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_cpus(monkeypatch, tmp_path, {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"})
    assert device.physical_cores() == 2


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/job/inner\n", {"job/cpu.max": "150000 50000", "job/inner/cpu.max": "max 100000"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/gone\n", {"cpu.max": "200000 100000"}, 2),
        ("3:cpuset:/\n2:cpu,cpuacct:/job\n", {"cpu,cpuacct/job/cpu.cfs_quota_us": "200000",
                                              "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}, 2),
        ("2:cpu:/job\n", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, 8),
        ("nonsense\n", {}, 8),
    ],
)  # fmt: skip
def test_control_group_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, files: dict[str, str], expected: int
) -> None:
    fake_cpus(monkeypatch, tmp_path / "cpus", {cpu: str(cpu) for cpu in range(8)})
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(device, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(device, "_CGROUPS", tmp_path / "cgroup")
    assert device.physical_cores() == expected


def test_peak_memory_is_this_process_own() -> None:
    held = bytearray(os.urandom(1 << 20) * 256)  # a large parent must not show in its child
    code = (
        "from menura.system.device import peak_memory_mb\n"
        "before = peak_memory_mb()\n"
        "held = bytearray(b'menura..' * (64 << 17))\n"
        "print(before, peak_memory_mb())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(float, run.stdout.split())
    assert 5 < before < 64
    assert 60 < after - before < 200
    assert device.peak_memory_mb() > len(held) / 2**20


def in_a_fresh_process(code: str, **environment: str) -> list[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_", "ORT_"))}
    run = subprocess.run(
        [sys.executable, "-c", code], env=own | environment, capture_output=True, text=True, check=True
    )
    return run.stdout.split()


def test_denormals_are_zero_only_meanwhile_and_also_in_torchs_threads() -> None:
    code = (
        "from menura.system.device import configure_torch, flushed_denormals\n"
        "configure_torch(2)\n"
        "import torch\n"
        "def count(n):\n"
        "    return int((torch.full((n,), 1e-39) * 1.0).count_nonzero())\n"
        "with flushed_denormals():\n"
        "    print(torch.get_num_threads(), count(1 << 20))\n"
        "print(count(100))\n"
        "torch.set_flush_denormal(True)\n"
        "with flushed_denormals(): pass\n"
        "print(count(100))\n"
    )
    assert in_a_fresh_process(code) == ["2", "0", "100", "0"]


def test_a_converter_leaves_threads_and_environment_alone_unless_asked() -> None:
    code = (
        "import os; before = dict(os.environ)\n"
        "import torch, menura\n"
        "torch.set_num_threads(3); torch.backends.cudnn.enabled = False\n"
        "menura.Converter()\n"
        "print(torch.get_num_threads(), torch.backends.cudnn.enabled)\n"
        "menura.Converter(menura.EngineOptions(threads=2))\n"
        "print(torch.get_num_threads(), os.environ == before)\n"
        "menura.Converter(menura.EngineOptions(precision='fp32'))\n"
        "print(torch.backends.cudnn.allow_tf32)\n"
        "menura.Converter(menura.EngineOptions(precision='exact'))\n"
        "print(torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)\n"
    )
    assert in_a_fresh_process(code) == ["3", "False", "2", "True", "True", "False", "False"]


COMMAND = """
import os
from menura.cli import main
main.run = lambda argv: 0
try:
    main.main([])
except SystemExit:
    import torch
    print(torch.get_num_threads(), *(os.environ.get(name) for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")))
"""


def test_the_command_sets_threads_and_short_waits_before_torch_is_loaded() -> None:
    assert in_a_fresh_process(COMMAND) == [str(device.physical_cores()), "1000", "1"]


def test_what_the_user_set_stays() -> None:
    assert in_a_fresh_process(COMMAND, OMP_NUM_THREADS="1") == ["1", "1000", "1"]
    assert in_a_fresh_process(COMMAND, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="active") == ["1", "None", "None"]
    assert in_a_fresh_process(COMMAND, OMP_NUM_THREADS="1", KMP_BLOCKTIME="9") == ["1", "None", "9"]


@pytest.mark.parametrize(("said", "expected"), [("3", 3), ("2,1", 2), ("", 5), ("0", 5), ("many", 5), (None, 5)])
def test_default_threads(monkeypatch: pytest.MonkeyPatch, said: str | None, expected: int) -> None:
    monkeypatch.setattr(device, "physical_cores", lambda: 5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert device.default_threads() == expected


@pytest.mark.parametrize(
    ("told", "windows", "maker", "family"),
    [
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel name\t: AMD EPYC 9R45\n", "", "AMD", 26),
        ("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: a processor\n", "", "Intel", 0),
        ("vendor_id\t: HygonGenuine\n", "", "", 0),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", "", "", 0),
        (None, "AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD", "AMD", 26),
        (None, "Intel64 Family 6 Model 85 Stepping 7, GenuineIntel", "Intel", 6),
        (None, "arm", "", 0),
    ],
)
def test_the_processors_maker_and_family(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str | None, windows: str, maker: str, family: int
) -> None:
    file = tmp_path / "cpuinfo"
    if told is not None:
        file.write_text(told)
    monkeypatch.setattr(device, "_CPU_INFO", file)
    monkeypatch.setattr(device.platform, "processor", lambda: windows)
    assert device.processor_maker() == maker
    assert device.processor_family.__wrapped__() == family
