r"""What SFT has taught: held-out answer perplexity before and after, and how a model's answers end.

python benchmarks/answers.py --base checkpoints/pretrain/tiny/final --tuned checkpoints/sft_industrial/tiny/final \\
        --data_dir data/sft_processed/NAME
"""

import argparse
import json
import math
from pathlib import Path

from lumi.evaluation.generation_checks import figures_of
from lumi.inference import GenerationConfig, generate
from lumi.model import choose_device, choose_dtype, load_model
from lumi.posttraining import SFTDataset
from lumi.posttraining.chat_samples import ChatSamples
from lumi.posttraining.tuning import QUESTIONS
from lumi.tokenizer import Tokenizer
from lumi.training import CausalLMObjective, HeldOutLoss, Ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--tuned", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument(
        "--questions", type=int, default=400, help="held-out conversations whose first question is asked"
    )
    parser.add_argument("--max_new_tokens", type=int, default=400)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    device = choose_device("auto")
    dataset = SFTDataset(options.data_dir, "val")
    objective = CausalLMObjective(documents_per_row=dataset.documents_per_row())
    measure = HeldOutLoss([dataset], objective, rows=1 << 30, micro_batch_size=16, ranks=Ranks(0, 1, device))
    prompts = []
    for index in range(min(options.questions, len(dataset.lengths))):
        rendered = dataset.conversation(index)
        prompts.append(rendered.ids[: int(rendered.loss.argmax())].tolist())
    tokenizer = Tokenizer.load(options.tuned)
    found = {}
    for name, folder in (("before", options.base), ("after", options.tuned)):
        model = load_model(folder, device=device, dtype=choose_dtype("fp32", device))
        loss = next(iter(measure(model)["val_loss"].values()))
        settings = GenerationConfig(
            max_new_tokens=options.max_new_tokens, temperature=0.7, stop_ids=dataset.template.stop_ids, batch_size=64
        )
        answers = generate(model, tokenizer, prompts, settings)
        asked = ChatSamples(tokenizer, dataset.template, QUESTIONS, 120).answers(model)
        found[name] = {
            "held_out_loss": loss,
            "answer_perplexity": math.exp(loss),
            **figures_of(answers).to_json(),
            "samples": [{"question": q, "answer": a.text.strip()} for q, a in zip(QUESTIONS, asked, strict=True)],
            "held_out_samples": [
                {"prompt": one.prompt, "answer": one.text.strip(), "ended": one.finish_reason} for one in answers[:12]
            ],
        }
        shown = {key: value for key, value in found[name].items() if "samples" not in key}
        print(f"{name}: {json.dumps(shown)}", flush=True)
    for before, after in zip(found["before"]["samples"], found["after"]["samples"], strict=True):
        print(f"\n> {before['question']}\n  before: {before['answer']!r:.300}\n  after:  {after['answer']!r:.500}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
