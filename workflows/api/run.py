"""Run an API-format workflow on a ComfyUI that is up, and fetch its pictures.

python workflows/api/run.py "workflows/api/1 Compare base and HyperNoise.json"
python workflows/api/run.py workflows/api/SD-Turbo.json --set 7.batch_size=4 --url http://127.0.0.1:8188
"""

import argparse
import json
import time
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="change an input")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the pictures")
    args = parser.parse_args()

    prompt = json.loads(args.workflow.read_text(encoding="utf-8"))
    for change in args.set:
        place, _, value = change.partition("=")
        node, _, name = place.partition(".")
        old = prompt[node]["inputs"][name]
        prompt[node]["inputs"][name] = value if isinstance(old, str) else json.loads(value)

    body = json.dumps({"prompt": prompt}).encode()
    request = Request(f"{args.url}/prompt", body, {"Content-Type": "application/json"})
    prompt_id = json.load(urlopen(request))["prompt_id"]
    while not (history := json.load(urlopen(f"{args.url}/history/{prompt_id}"))):
        time.sleep(0.2)
    run = history[prompt_id]
    if run["status"]["status_str"] != "success":
        raise SystemExit(json.dumps(run["status"]["messages"][-1], indent=2))
    for node, output in run["outputs"].items():
        for text in output.get("text", []):
            print(text)
        for image in output.get("images", []):
            path = args.out / f"{node}-{image['filename']}"
            path.write_bytes(urlopen(f"{args.url}/view?{urlencode(image)}").read())
            print(path)


if __name__ == "__main__":
    main()
