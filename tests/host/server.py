"""A real ComfyUI as a subprocess, and a client for its HTTP interface."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import torch

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 600
"""Seconds until something is taken for stuck; a start takes ten of them on a machine that has nothing else to do."""

MODEL_FOLDERS = ("checkpoints", "diffusion_models", "text_encoders", "vae", "vae_approx", "hypernoise", "loras")


def find_root() -> tuple[Path, Path]:
    """ComfyUI's folder and its Python: HYPERNOISE_COMFY_ROOT and HYPERNOISE_COMFY_PYTHON, or a usual place."""
    root = Path(os.environ.get("HYPERNOISE_COMFY_ROOT") or Path.home() / "comfy" / "ComfyUI")
    python = os.environ.get("HYPERNOISE_COMFY_PYTHON") or root / ".venv" / "bin" / "python"
    return root, Path(python)


class ComfyError(Exception):
    """What a run ended with; `node_type` is the node that said it, `status` the HTTP status of a refused prompt."""

    def __init__(self, message: str, node_type: str = "", status: int = 0):
        super().__init__(message)
        self.node_type, self.status = node_type, status


class Comfy:
    """A server with this pack and a probe in its custom_nodes, in folders of its own."""

    def __init__(self, folder: Path, blocked: tuple[str, ...] = (), arguments: tuple[str, ...] = ()):
        self.folder = folder
        root, python = find_root()
        for name in MODEL_FOLDERS:
            (folder / "models" / name).mkdir(parents=True, exist_ok=True)
        for name in ("custom_nodes", "input", "output", "user", "blocked"):
            (folder / name).mkdir(exist_ok=True)
        (folder / "custom_nodes" / "ComfyUI-HyperNoise").symlink_to(REPOSITORY)
        (folder / "custom_nodes" / "probe").symlink_to(Path(__file__).parent / "probe")
        for package in blocked:
            (folder / "blocked" / f"{package}.py").write_text(
                f"raise ImportError('no {package} in this environment')\n"
            )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log.txt"
        environment = {
            **os.environ,
            "PYTHONPATH": str(folder / "blocked"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [str(python), "main.py", "--cpu", "--port", str(self.port), "--base-directory", str(folder)]
        command += ["--preview-method", "latent2rgb"]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*command, "--disable-auto-launch", *arguments],
                cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        raise RuntimeError(f"ComfyUI did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def text(self, path: str, binary: bool = False):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            body = answer.read()
        return body if binary else body.decode()

    def post(self, path: str, data: dict):
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def queue(self, prompt: dict) -> str:
        """Queue an API-format prompt; its id."""
        try:
            return self.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})["prompt_id"]
        except urllib.error.HTTPError as error:
            raise ComfyError(_refusal(json.loads(error.read())), status=error.code) from None

    def wait(self, prompt_id: str, seconds: float = PATIENCE) -> dict:
        """The outputs of a prompt by node."""
        deadline, pause = time.monotonic() + seconds, 0.01
        while time.monotonic() < deadline:
            if entry := self.get(f"/history/{prompt_id}").get(prompt_id):
                for kind, message in entry["status"]["messages"]:
                    if kind == "execution_error":
                        raise ComfyError(message["exception_message"].strip(), message["node_type"])
                    if kind == "execution_interrupted":
                        raise ComfyError("interrupted", message["node_type"])
                return entry["outputs"]
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(pause)
            pause = min(0.5, 1.2 * pause)  # each question takes the server's time from what it is asked about
        raise TimeoutError(self.log.read_text()[-3000:])

    def run(self, prompt: dict) -> dict:
        return self.wait(self.queue(prompt))

    def file(self, output: dict) -> Path:
        """Where an output of a run lies."""
        return self.folder / output["type"] / output["subfolder"] / output["filename"]


def _refusal(answer: dict) -> str:
    details = [
        f"{node['class_type']}: {error['message']} {error['details']}"
        for node in answer.get("node_errors", {}).values()
        for error in node["errors"]
    ]
    return "\n".join([answer.get("error", {}).get("message", ""), *details])


def saved(server: Comfy, outputs: dict) -> list[tuple[torch.Tensor, dict]]:
    """Tensors and model states of every ProbeSave of a run, in the order of the graph."""
    found = [(int(node), out) for node, out in outputs.items() if "tensors" in out]
    return [
        (torch.load(server.file(out["tensors"][0]), weights_only=True), out["state"][0]) for _, out in sorted(found)
    ]
