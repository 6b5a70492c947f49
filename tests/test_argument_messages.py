"""Whatever is wrong on a command line, its message names the argument as it was typed."""

import json
import re
from pathlib import Path

import pytest

from hypernoise_core.embedded import HEAD_FILE, HYPERNOISE_FILE
from hypernoise_core.settings import Message, SettingError, about, naming
from train import __main__ as train_command
from train import convert, demo, evaluate, generate
from train.cli import run_command
from train.embedded import __main__ as embedded

COMMANDS = {
    "train": train_command.main,
    "generate": generate.main,
    "evaluate": evaluate.main,
    "demo": demo.main,
    "convert": convert.main,
    "embedded": embedded.main,
}

MOST_WORDS = 700
"""Characters of a message, however long the line is that it is about."""

BEFORE_ANYTHING_IS_LOADED = """
train --lora_rank -4 | --lora_rank is -4: give at least 1
train --alpha_multiplier 0 | --alpha_multiplier is 0.0: give a number above 0
train --head_width 100 | --head_width is 100: give a multiple of 16
train --iterations 0 | --iterations is 0: give at least 1
train --hypernetwork mlp | --hypernetwork is 'mlp': give lora or head
train --lr 0 | --lr is 0.0: give a number above 0
train --lr .inf | --lr is inf: give a number above 0
train --lr fast | --lr is 'fast': give a number
train --lr | --lr has no value: give a number
train --lr= | --lr is '': give a number
train --temperature .nan | --temperature is nan: give a number above 0
train --optim lion | --optim is 'lion': give sgd, adam, adamw or adamw8bit
train --batch_size 1.5 | --batch_size is '1.5': give a whole number
train --batch_size 0 | --batch_size is 0: give at least 1
train --accumulation_steps 0 | --accumulation_steps is 0: give at least 1
train --micro_batch_size -1 | --micro_batch_size is -1: give at least 1
train --micro_batch_size many | --micro_batch_size is 'many': give a whole number, or null
train --max_steps 0 | --max_steps is 0: give at least 1
train --epochs 0 | --epochs is 0: give at least 1
train --warmup_steps -1 | --warmup_steps is -1: give at least 0
train --weight_decay -1 | --weight_decay is -1.0: give at least 0
train --beta2 1 | --beta2 is 1.0: give a number in [0, 1)
train --ema_decay 2 | --ema_decay is 2.0: give a number in [0, 1)
train --decay_fraction 1.5 | --decay_fraction is 1.5: give a number in [0, 1]
train --reward_grad_clip 0 | --reward_grad_clip is 0.0: give a number above 0, or null for no clipping
train --grad_clip 0 | --grad_clip is 0.0: give a number above 0
train --steps 0 | --steps is 0: give at least 1
train --dtype float16 | --dtype is float16, where small gradients vanish: train with bfloat16
train --height 0 | --height is 0: give at least 1
train --seed -1 | --seed is -1: give a number from 0
train --seed 99999999999999999999 | --seed is 99999999999999999999: give a number from 0
train --max_skipped 0 | --max_skipped is 0: give at least 1
train --pictures_per_prompt 3 | --pictures_per_prompt is 3: give a divisor of --batch_size, 32
train --use_checkpoint sometimes | --use_checkpoint is 'sometimes': give true or false, or hypernetwork
train --use_checkpoint hypernetwork --train_type finetune | --use_checkpoint is hypernetwork, and --train_type finetune
train --enable_modulate_noise false | --enable_modulate_noise is false
train --hypernetwork tree | --hypernetwork is 'tree': give lora or head
train --hypernetwork head --warm_start_pictures 64 | --warm_start_pictures is set, which fits a LoRA's last layer
train --coarsen 2 | --warm_start_pictures is set
train --hypernetwork head --distill x.safetensors | --distill and --distill_steps belong together
train --hypernetwork head --distill_steps 5 | --distill and --distill_steps belong together
train --hypernetwork head --distill_steps -1 | --distill_steps is -1: give at least 0
train --hypernetwork head --head_width 50 | --head_width is 50: give a multiple of 16
train --hypernetwork head --head_depth 0 | --head_depth is 0: give at least 1
train --hypernetwork head --head_reads words | --head_reads is 'words': give features or prediction
train --hypernetwork head --iterations 0 | --iterations is 0: give at least 1
train --hypernetwork head --coarsen 0 | --coarsen is 0: give at least 1
train --train_type finetune --iterations 3 | --iterations, --coarsen and --distill are a noise hypernetwork's
train --patience 2 | --validate_every is 0, so --patience and --diversity_floor cannot stop the run
train --diversity_floor 1 | --diversity_floor is 1.0: give a number in [0, 1)
train --save_every 0 | --save_every is 0: give at least 1
train --keep_checkpoints 0 | --keep_checkpoints is 0: give at least 1
train --threads 0 | --threads is 0: give at least 1
train --red_weighting .nan | --red_weighting is nan: give a finite number
train --rewards_batch 0 | --rewards_batch is 0: give at least 1, or null
train --trackers comet | --trackers names 'comet': choose from
train --trackers wandb | --trackers names wandb, which is not installed
train --learning_rate 3 | unrecognized arguments: --learning_rate 3
train --config nowhere.yaml | --config is 'nowhere.yaml': give a YAML file
train --config broken.yaml | --config broken.yaml cannot be read
train --config odd.yaml | --config odd.yaml has learning_rate, which is no argument
train --config bad.yaml | --lr is fast in --config bad.yaml: give a number
train --config bad.yaml --lr 1 | --lr is fast in --config bad.yaml: give a number
train --save_dir used | --save_dir is 'used', which is not empty
train --save_dir used/x/run | --save_dir is 'used/x/run', and used/x is a file
train --cache_dir used/x | --cache_dir is 'used/x', and used/x is a file
train --save_dir /proc/x | --save_dir is '/proc/x', which cannot be written
train --save_dir LONG | --save_dir has 100000 characters: give at most 4000
train --save_dir LONGISH | --save_dir is 'xxxxx
train --save_dir= | --save_dir is '': give text, or leave it out
train --prompts= | --prompts is '': give text, or leave it out
train --rewards= | --rewards is '': give text, or leave it out
train --config empty.yaml | --rewards is '': give text, or leave it out
train --rewards ../x:Y | --rewards: reward '../x:Y' does not load
train --rewards raises:Y | --rewards: reward 'raises:Y' does not load (RuntimeError: no licence)
train --rewards LONG | --rewards has 100000 characters
train --lr LONG | --lr is 'xxxxx
train --LONG | unrecognized arguments: --xxxxx
train --device meta | --device is 'meta', which holds no numbers
train --steps 1000000 | --steps is 1000000: give at most 1000
train --batch_size 18446744073709551616 | --batch_size is 18446744073709551616: give a number from 0 to 2**63 - 1
train --head_width 9999999984 | --head_width is 9999999984: give a multiple of 16, at most
train --head_depth 9999999 | --head_depth is 9999999: give at most
train --critics 9999999 | --critics is 9999999: give at most
train --resume used | --resume is 'used', without a complete checkpoint: give a run's folder or one of its checkpoints
train --resume auto --save_dir used | --save_dir is 'used', which is not empty
train --resume auto | --resume auto looks for checkpoints in --save_dir
train --device nonsense | --device is 'nonsense', which is not there
train --task poems | --task is 'poems': choose from
train --task geneval | --task: its prompts are in evaluation_metadata.jsonl
train --prompts nowhere.txt | --prompts: prompts file nowhere.txt cannot be read
train --prompts empty.txt | --prompts: prompts file empty.txt is empty
train --prompts binary.txt | --prompts: prompts file binary.txt cannot be read
train --prompts wide.txt | --prompts: prompts file wide.txt cannot be read, it is text in UTF-16: save it as UTF-8
train --prompts zeros.txt | --prompts: prompts file zeros.txt cannot be read, it has zero bytes: save it as text
train --prompts lfs.txt | --prompts: prompts file lfs.txt holds no prompts, it is a pointer of git-lfs
train --prompts half.jsonl | --prompts: prompts file half.jsonl: line 3 is no JSON (Expecting value at column 12)
train --prompts LONGISH | --prompts
train --prompts p.txt=often | --prompts: prompts 'p.txt=often': the weight after = is not a number
train --model sana --rewards redness | --model is 'sana', which has no prompts of its own: pass a file with --prompts
train --model sdxl-turbo --prompts p.txt | there is no reward: give --rewards
train --validate_every 5 --validation_prompts nowhere.txt | --validation_prompts: prompts file nowhere.txt
train --validate_every 5 --model sana --prompts p.txt | --validate_every is set: pass a file with --validation_prompts
train --rewards beauty | --rewards: unknown reward 'beauty'
train --rewards redness=lots | --rewards: reward 'redness=lots': the weight after = is not a number
train --rewards redness=0 | --rewards: no reward has a weight other than zero
train --rewards redness --held_out beauty | --held_out: unknown reward 'beauty'
train --rewards redness --held_out redness | --held_out: reward 'redness' is named twice
train --rewards imagereward --rewards_folder used | not in --rewards_folder, used: download ImageReward.pt
train --rewards imagereward --rewards_backend package | --rewards_backend is package
train --rewards redness --model nothing.safetensors --prompts p.txt | --model is 'nothing.safetensors': there is no such
train --rewards redness --model used/a.safetensors --prompts p.txt | name its pipeline with --pipeline
generate | give either --prompt TEXT or --prompts FILE
generate --prompt= | --prompt is '': give text, or leave it out
generate --prompt x --seed -1 | --seed is -1: give a number from 0
generate --prompt x --seed 18446744073709551616 | --seed is 18446744073709551616: give a number from 0
generate --prompt x --height 0 | --height is 0: give at least 1
generate --prompt x --steps 1000000 | --steps is 1000000: give at most 1000
generate --prompt x --save_dir /proc/x | --save_dir is '/proc/x', which cannot be written
generate --prompt x --n x | --n is 'x': give a whole number
generate --prompt x --n 0 | --n is 0: give at least 1
generate --prompt x --iterations 0 | --iterations is 0: give at least 1
generate --prompt x --strength .nan | --strength is nan: give a finite number
generate --prompt x --best_of 2 --n 3 | --best_of is 2: give at least --n, 3
generate --prompt x --reno 0 | --reno is 0: give at least 1 iteration
generate --prompt x --reno 8 --reno_lr 0 | --reno_lr is 0.0: give a number above 0
generate --prompt x --reno 8 --model sana | --reno needs a reward: give --reward
generate --prompt x --best_of 8 --model sana | --best_of needs a reward: give --reward
generate --prompt x --best_of 8 --reward beauty | --reward: unknown reward 'beauty'
generate --prompt x --save_dir used/x | --save_dir is 'used/x', and used/x is a file
generate --prompt x --dtype float64 | --dtype is 'float64': give float32, bfloat16 or float16
generate --prompt x --reno 2 --free_reading | leave --free_reading out
generate --prompt x --between_steps never | --between_steps is 'never': give
generate --prompts nowhere.txt | --prompts: prompts file nowhere.txt
evaluate --steps 1,two | --steps is '1,two': give numbers above 0
evaluate --steps 1,1000000 | --steps has 1000000: give at most 1000
evaluate --height 0 | --height is 0: give at least 1
evaluate --seed -1 | --seed is -1: give a number from 0
evaluate --seed 18446744073709551616 | --seed is 18446744073709551616: give a number from 0
evaluate --diversity nope | --diversity names 'nope': choose from
evaluate --rewards nope | --rewards: unknown reward 'nope'
evaluate --rewards redness | --rewards is 'redness', which --benchmark embedded does not use: leave it out
evaluate --benchmark geneval --prompts_dir good --rewards nope | --rewards: unknown reward 'nope'
evaluate --benchmark geneval --prompts_dir good --n 60 | --n is 60, which --benchmark geneval does not use
evaluate --save_dir /proc/x | --save_dir is '/proc/x', which cannot be written
evaluate --n 100 | --n is 100: give a multiple of 60
evaluate --iterations 0 | --iterations is 0: give at least 1
evaluate --score perhaps | --score is 'perhaps': give true or false
evaluate --model sana | --model is 'sana', and --benchmark embedded is for the embedded model
evaluate --benchmark poems | --benchmark is 'poems': give embedded, geneval, t2i-compbench or dpg-bench
evaluate --benchmark geneval --limit 0 | --limit is 0: give at least 1
evaluate --benchmark geneval --prompts_dir nowhere | --prompts_dir is 'nowhere', which is not a folder
evaluate --benchmark geneval --prompts_dir used | --prompts_dir is 'used', without evaluation_metadata.jsonl
evaluate --benchmark geneval --prompts_dir odd | --prompts_dir: line 1 of odd/evaluation_metadata.jsonl
evaluate --benchmark t2i-compbench --categories poems | --categories names 'poems': choose from
evaluate --benchmark dpg-bench --samples 5 | --samples 1 to 4
evaluate --benchmark geneval --save_dir used | --save_dir is 'used', which is not empty
evaluate --benchmark geneval --prompts_dir good --diversity beauty | --diversity names 'beauty': choose from
evaluate --benchmark geneval --prompts_dir good --detector used | --detector cannot be loaded from 'used'
evaluate --benchmark geneval --prompts_dir good --score false --adapter nowhere | --adapter: no HyperNoise
demo --scale 0 | --scale is 0.0: give a number in (0, 10]
demo --n 61 | --n is 61: give a multiple of 60
demo --threads 0 | --threads is 0: give at least 1
convert | --adapter is missing
convert --adapter nowhere | --adapter: no HyperNoise LoRA at nowhere
convert --adapter x --kind y | --kind is 'y': give noise or finetune
convert --adapter x --output used/x | --output is 'used/x', which exists
convert --adapter x --output used/x/y.safetensors | --output is 'used/x/y.safetensors', and used/x is a file
convert --adapter x --output /proc/x/y.safetensors | --output is '/proc/x/y.safetensors', which cannot be written
convert --adapter lfs.safetensors | --adapter: lfs.safetensors holds no data, it is a pointer of git-lfs
convert --adapter page.bin | --adapter: page.bin holds no data, it is a web page: download the file itself
convert --adapter x --output used | --output is 'used', which exists
embedded --files 0 | --files is 0: give at least 1
embedded --install perhaps | --install is 'perhaps': give true or false
"""

ONCE_MODELS_ARE_LOADED = """
train --rewards redness --height 60 | --width x --height is 64x60: give multiples of 8 pixels
train --rewards redness --lora_rank 99999999 | --lora_rank is 99999999, and no layer of embedded can use more than
train --rewards redness --last_layer_name LONGISH | --last_layer_name 'xxxxx
train --rewards redness --last_layer_name conv_out | --last_layer_name 'conv_out' is no Linear or Conv2d
train --rewards redness --distill used/a.safetensors | --distill and --distill_steps belong together
train --rewards redness --distill half.safetensors --distill_steps 2 | --distill: half.safetensors is not
train --rewards redness --iterations 2 --train_type finetune | --iterations, --coarsen and --distill are a noise
train --rewards redness --optim adamw8bit | --optim adamw8bit needs bitsandbytes
train --rewards redness --held_out diversity --diagnostics_every 0 | --held_out would never be measured: set --d
train --rewards redness --model nowhere --prompts p.txt | --model: no generator at 'nowhere'
generate --prompt x --width 63 | --width x --height is 63x64: give multiples of 8 pixels
generate --prompt x --adapter nowhere.safetensors | --adapter: no HyperNoise LoRA at nowhere.safetensors
generate --prompt x --adapter half.safetensors | --adapter: half.safetensors is not
generate --prompt x --adapter other.safetensors | --adapter: other.safetensors was made for flux-one
generate --prompt x --free_reading | --free_reading is set and --steps is 1
evaluate --free_reading --steps 1,2 | --free_reading is set and --steps is 1
train --rewards redness --hypernetwork head --coarsen 3 | --coarsen is 3, and pictures are 64x64
train --rewards redness --hypernetwork head --distill nowhere.safetensors --distill_steps 5 | --distill: no HyperNoise
train --rewards redness --hypernetwork head --distill head.safetensors --distill_steps 500 | --distill_steps is 500 of
generate --prompt x --adapter half-head.safetensors | --adapter: half-head.safetensors is not a complete
evaluate --adapter half-head.safetensors | --adapter: half-head.safetensors is not a complete safetensors file
convert --adapter half-head.safetensors | --adapter: half-head.safetensors is not a complete safetensors file
convert --adapter head.safetensors --output peft | --output is 'peft', and head.safetensors is a head: it has no PEFT
evaluate --adapter nowhere | --adapter: no HyperNoise LoRA at nowhere
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with what the lines name."""
    monkeypatch.chdir(tmp_path)
    for name in ("used", "odd", "good"):
        (tmp_path / name).mkdir()
    (tmp_path / "used/x").touch()
    (tmp_path / "used/a.safetensors").write_bytes(b"half of it")
    (tmp_path / "p.txt").write_text("a red square\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "wide.txt").write_text("a red square\n", "utf-16")
    (tmp_path / "zeros.txt").write_text("a red square\n", "utf-16-le")
    for name in ("lfs.txt", "lfs.safetensors"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    (tmp_path / "page.bin").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "half.jsonl").write_text('{"prompt": "a cat"}\n\n{"prompt": a dog}\n')
    (tmp_path / "raises.py").write_text('raise RuntimeError("no licence")\n')
    (tmp_path / "empty.yaml").write_text("rewards: ''\n")
    (tmp_path / "broken.yaml").write_text("lr: [1e-3\n  x: {")
    (tmp_path / "odd.yaml").write_text("learning_rate: 1\n")
    (tmp_path / "bad.yaml").write_text("lr: fast\n")
    metadata = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"}
    (tmp_path / "good/evaluation_metadata.jsonl").write_text(json.dumps(metadata) + "\n")
    (tmp_path / "odd/evaluation_metadata.jsonl").write_text('{"tag": "counting"}\n')
    return tmp_path


def cases(table):
    return [tuple(row.split(" | ")) for row in table.strip().splitlines()]


def check(folder, capsys, line, words):
    before = sorted(folder.rglob("*"))
    command, *argv = re.sub("LONG(ISH)?", lambda found: "x" * (3000 if found[1] else 100_000), line).split()
    capsys.readouterr()

    code = run_command(COMMANDS[command], "the program", argv)

    shown = capsys.readouterr().err.splitlines()
    said = [row for row in shown if row.strip() and not row.startswith(("Loading", "\x1b"))]  # bars of diffusers
    assert code == 2
    assert [row.startswith("the program: error: ") for row in said] == [True], said
    assert words in said[0]
    assert len(said[0]) < MOST_WORDS
    assert "--" in words
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("line", "words"), cases(BEFORE_ANYTHING_IS_LOADED))
def test_it_is_named_before_anything_is_loaded(folder, capsys, monkeypatch, line, words):
    def load(*args, **kwargs):
        raise AssertionError("a model is loaded")

    for loader in ("diffusers.DiffusionPipeline.from_pretrained", "transformers.PreTrainedModel.from_pretrained"):
        monkeypatch.setattr(loader, load)
    check(folder, capsys, line, words)


@pytest.mark.parametrize(("line", "words"), cases(ONCE_MODELS_ARE_LOADED))
def test_it_is_named_where_the_model_has_to_be_asked(folder, capsys, line, words):
    whole = HYPERNOISE_FILE.read_bytes()
    (folder / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "other.safetensors").write_bytes(_for_another_model(whole))
    head = HEAD_FILE.read_bytes()
    (folder / "head.safetensors").write_bytes(head)
    (folder / "half-head.safetensors").write_bytes(head[: len(head) // 2])
    check(folder, capsys, line, words)


def _for_another_model(content: bytes) -> bytes:
    """The same file with another model's name and fingerprint of equal length in its header."""
    size = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:size])
    metadata = header["__metadata__"]
    metadata["hypernoise.denoiser_sha256"] = "0" * 64
    metadata["hypernoise.generator"] = "flux-one"
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[size:]


def test_processes_that_cannot_share_a_batch_are_told_the_argument(folder, capsys, monkeypatch):
    monkeypatch.setattr("hypernoise_core.training.processes.count", lambda: 4)
    monkeypatch.setattr("hypernoise_core.training.processes.rank", lambda: 0)
    monkeypatch.setattr("hypernoise_core.training.processes.gather", lambda value: [value] * 4)
    line = "train --rewards redness --batch_size 42"
    check(folder, capsys, line, "--batch_size is 42, which 4 processes cannot share")
    line = "train --rewards redness --batch_size 40 --reward_normalization running"
    check(folder, capsys, line, "--reward_normalization running sees one process's pictures only")


def test_settings_are_passed_with_an_option_not_by_it():
    """In messages, help and docs: `pass a file with --prompts`."""
    root = Path(__file__).parents[1]
    files = [p for room in ("hypernoise_core", "train", "nodes", "docs", "web") for p in (root / room).rglob("*.*")]
    texts = {p: p.read_text("utf-8") for p in [*files, root / "README.md"] if p.suffix in (".py", ".md", ".yaml")}
    found = {str(p): re.findall(r"\bby\s+`?(?:--\w+|\{+\w+\})", text) for p, text in texts.items()}
    assert {p: lines for p, lines in found.items() if lines} == {}


def test_a_message_is_renamed_with_the_messages_in_it():
    inner = Message("lower {lr}, or use {dtype} {!r}", "{float32}")
    message = Message("{} steps were skipped: {}", 3, inner)
    assert message == "3 steps were skipped: lower lr, or use dtype '{float32}'"
    assert message.called("--{}".format) == "3 steps were skipped: lower --lr, or use --dtype '{float32}'"


def test_the_innermost_names_stay():
    with pytest.raises(SettingError) as error, naming("--{}".format), about("rewards"):
        raise ValueError(Message("nothing in {weights}"))
    assert str(error.value) == "--rewards: nothing in --weights"
    with pytest.raises(ValueError) as error, naming("{}!".format), naming("--{}".format), about("rewards"):
        raise SettingError("{backend} is {}", "native")
    assert str(error.value) == "--backend is native"
