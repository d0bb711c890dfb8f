"""The live view of a run: a picture that redraws itself in a notebook, a progress bar elsewhere."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from elm_helpers.curves import find_trouble, format_progress, merge_history
from elm_helpers.plots import plot_training, render_png

from IPython import get_ipython
from IPython.display import Image, display
from tqdm import tqdm


class LiveView:
    """Shows one run; `state` and `args` are the trainer's."""

    def __init__(self, seconds: float):
        self.seconds, self.drawing = seconds, hasattr(get_ipython(), "kernel")
        self.bar, self.handle, self.drawn, self.said = None, None, 0.0, set()

    def begin(self, args, state) -> None:
        """Start the clock, and outside a notebook the bar."""
        self.first, self.start = state.global_step, time.perf_counter()
        if not self.drawing:
            where = {"initial": state.global_step, "total": state.max_steps, "unit": "step"}
            self.bar = tqdm(**where, disable=args.disable_tqdm, dynamic_ncols=True)

    def follow(self, args, state) -> None:
        """Show what was logged last, and say once what looks wrong."""
        history = merge_history(state.log_history)
        trouble = find_trouble(history)
        for name in trouble.keys() - self.said:
            tqdm.write(f"Warning: {trouble[name]}")
        self.said |= trouble.keys()
        if self.bar is not None:
            self.bar.set_postfix_str(format_progress(history))
        elif time.perf_counter() - self.drawn >= self.seconds:
            self.draw(args, state, history)

    def draw(self, args, state, history: Sequence[Mapping]) -> None:
        """Draw the curves, keep them as ``training.png``, and put them in the place of the last drawing."""
        done, left = state.global_step - self.first, state.max_steps - state.global_step
        minutes = (time.perf_counter() - self.start) / max(done, 1) * left / 60
        title = f"step {state.global_step:,} of {state.max_steps:,}, {minutes:.1f} min left: {format_progress(history)}"
        png = render_png(plot_training(history, title))
        part = Path(args.output_dir) / "training.png.part"
        part.write_bytes(png)
        os.replace(part, part.with_suffix(""))
        if self.drawing:
            image = Image(png, alt=title)
            if self.handle is None:
                self.handle = display(image, display_id=True)
            else:
                self.handle.update(image)
        self.drawn = time.perf_counter()

    def end(self, args, state) -> None:
        """Close the bar, and draw the whole run."""
        if self.bar is not None:
            self.bar.close()
        history = merge_history(state.log_history)
        if any("loss" in line for line in history):
            self.draw(args, state, history)


def build_live_plot(seconds: float = 1.0):
    """Build a `TrainerCallback` that shows a run while it trains, and keeps its picture as ``training.png``.

    In a notebook it redraws the curves; elsewhere it moves a tqdm bar (not with ``disable_tqdm``). What looks wrong is
    said in words, once. Of several devices only the first shows anything.

    Args:
        seconds: The least time between two drawings.

    Shown in ``notebooks/03_train_qlora.ipynb``.
    """
    from transformers import TrainerCallback

    class LivePlot(TrainerCallback):
        """Hands the trainer's events to a view."""

        def __init__(self):
            self.view = LiveView(seconds)

        def on_train_begin(self, args, state, control, **more):
            if state.is_world_process_zero:
                self.view.begin(args, state)

        def on_step_end(self, args, state, control, **more):
            if self.view.bar is not None:
                self.view.bar.update(state.global_step - self.view.bar.n)

        def on_log(self, args, state, control, logs=None, **more):
            if state.is_world_process_zero and {"loss", "eval_loss"} & set(logs or {}):
                self.view.follow(args, state)

        def on_train_end(self, args, state, control, **more):
            if state.is_world_process_zero:
                self.view.end(args, state)

    return LivePlot()
