"""Find published prompts: in a folder that the user filled, or by downloading them."""

import urllib.request
from pathlib import Path

from hypernoise_core.files import replacing
from hypernoise_core.settings import SettingError

URLS = {
    "evaluation_metadata.jsonl": "https://raw.githubusercontent.com/djghosh13/geneval/main/prompts/",
    "dpg_bench.csv": "https://raw.githubusercontent.com/TencentQQGYLab/ELLA/main/dpg_bench/",
}
T2I_URL = "https://raw.githubusercontent.com/Karine-Huang/T2I-CompBench/main/examples/dataset/"
"""Categories of `<category>_val.txt`."""

TIMEOUT_S = 60


def find_published(name: str, folder: str | None, downloads: Path) -> Path:
    """The path of a published file.

    Args:
        folder: searched at any depth; nothing is downloaded if it is given.
        downloads: where the file is downloaded to, once, if `folder` is not given.

    Raises:
        ValueError: it is not in the folder, or cannot be downloaded; the message says where to get it and where to put
            it.
    """
    url = URLS.get(name, T2I_URL) + name
    if folder:
        if not Path(folder).is_dir():
            raise SettingError("{prompts_dir} is {!r}, which is not a folder: download {} into one", folder, url)
        if found := sorted(Path(folder).rglob(name)):
            return found[0]
        raise SettingError("{prompts_dir} is {!r}, without {}: download {} and put it there", folder, name, url)
    path = downloads / name
    if not path.is_file():
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, replacing(path) as temporary:
                temporary.write_bytes(answer.read())
        except OSError as error:
            raise ValueError(
                f"{name} cannot be downloaded ({error}): download {url} and pass its folder with --prompts_dir"
            ) from error
    return path
