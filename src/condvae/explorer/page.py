"""The explorer's page: which controls there are, and which answer each of them asks for."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condvae.errors import UserError
from condvae.explorer import answers, markup
from condvae.explorer.answers import MOST_BYTES, Pixels, Study, Subject
from condvae.figures.maps import class_map, point_of
from condvae.verbs.journeys import animation_of

if TYPE_CHECKING:
    import gradio as gr

WAITING = 32
"""Questions in the queue, at most; who comes after that is told to try again."""
SLIDERS, PAD = 8, 280
UNSAID = "let the model say"
INTRODUCTION = (
    "The latents carry what is not in the label, if the model has learnt it well: an image is encoded "
    "with its own label, and decoded with another."
)


def page_of(subject: Subject, audit: str | Path | None = None) -> gr.Blocks:
    """The page.

    Arguments:
        audit: the folder of an audit, to be shown too.

    Raises:
        UserError: gradio isn't installed, or the audit can't be read.
    """
    gr = gradio()
    study = answers.study(subject)
    name = subject.run.path.name
    with gr.Blocks(title=f"condvae: {name}", analytics_enabled=False) as page:
        gr.HTML(f"<h1>{escape(name)}</h1>" + markup.said(INTRODUCTION))
        with gr.Tab("Wrong label"):
            _wrong_label(gr, subject)
        with gr.Tab("Latent space"):
            _latent_space(gr, subject, study)
        with gr.Tab("Between"):
            _between(gr, subject)
        with gr.Tab("Samples"):
            _samples(gr, subject)
        with gr.Tab("Numbers"):
            _numbers(gr, subject)
        with gr.Tab("Audit"):
            _audit(gr, subject, audit)
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    return page


def gradio() -> Any:
    """The library that makes the page, with its analytics off.

    Raises:
        UserError: it isn't installed.
    """
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            "the explorer needs Gradio; install it with: pip install 'condvae[explore]'"
        ) from error
    return gradio


_ONE_AT_A_TIME = threading.Lock()
"""A model that is guided is another model for a while, so no two questions are answered at once."""


def asked(answer: Callable[..., Any]) -> Callable[..., Any]:
    """An answer to a control: one at a time, and a UserError as a message on the page."""

    @functools.wraps(answer)
    def told(*values: Any) -> Any:
        try:
            with _ONE_AT_A_TIME:
                return answer(*values)
        except UserError as error:
            raise gradio().Error(escape(str(error), quote=False), print_exception=False) from None

    return told


# ------------------------------------------------------------------------------------------- wrong label


def _wrong_label(gr: Any, subject: Subject) -> None:
    ground = 0 if subject.test is None else subject.test.ground
    shape, names = subject.run.model.shape, subject.names
    with gr.Row():
        with gr.Column(min_width=300):
            if subject.test is not None:
                number = gr.Number(0, label="A test image, by number", precision=0, minimum=0)
                pick = gr.Button("Show it under every label", variant="primary")
            upload = gr.File(
                label=f"Or an image of your own, of up to {MOST_BYTES >> 20} MiB", file_count="single"
            )
            ink = "#ffffff" if ground < 128 else "#000000"
            colours = [ink] if shape[0] == 1 else [ink, "#d03030", "#30a030", "#3050d0", "#e0c020"]
            paper = np.full((PAD, PAD, 3), ground, np.uint8)
            pad = gr.Sketchpad(
                {"background": paper, "layers": [], "composite": paper},
                label="Or draw one",
                type="numpy",
                image_mode="RGBA",
                canvas_size=(PAD, PAD),
                fixed_canvas=True,
                layers=False,
                transforms=(),
                brush=gr.Brush(default_size=PAD // 14, colors=colours, color_mode="fixed"),
            )
            draw = gr.Button("Show the drawing under every label", variant="primary")
            shows = gr.Dropdown(
                [UNSAID, *names], value=UNSAID, label="What an upload or a drawing shows"
            )
        with gr.Column(min_width=300):  # a column, so that it goes below the controls on a phone
            result = gr.HTML(label="Under every label")

    def picked(index: float | None) -> str:
        image, label = answers.numbered(subject, int(index or 0))
        return labels_markup(subject, image, label)

    def uploaded(file: str | None, shown: str) -> str:
        if not file:
            raise UserError("choose an image file first")
        if (size := Path(file).stat().st_size) > MOST_BYTES:
            raise UserError(f"the image has {size >> 20} MiB; at most {MOST_BYTES >> 20} are read")
        image = answers.image_of(Path(file).read_bytes(), shape)
        return labels_markup(subject, image, _label(subject, shown))

    def drawn(value: dict[str, Any] | None, shown: str) -> str:
        image = answers.drawing_of(strokes_of(value), ground, shape)
        return labels_markup(subject, image, _label(subject, shown))

    if subject.test is not None:
        pick.click(asked(picked), number, result)
        number.submit(asked(picked), number, result)
    upload.upload(asked(uploaded), [upload, shows], result)
    draw.click(asked(drawn), [pad, shows], result)


def strokes_of(value: dict[str, Any] | None) -> Any:
    """A drawing pad's value as RGBA strokes; empty where there are none."""
    layers = [np.asarray(layer) for layer in (value or {}).get("layers") or () if layer is not None]
    return layers[0] if layers else np.zeros((PAD, PAD, 4), np.uint8)


def labels_markup(subject: Subject, image: Pixels, label: int | None) -> str:
    """An image and what the model makes of it under every label, with likelihoods and opinions."""
    found = answers.under_every_label(subject, image, label)
    names, uses = subject.names, subject.run.model.uses_label
    notes: list[list[str]] = []
    for index in range(len(names)):
        lines = []
        if found.nats is not None and found.share is not None:
            lines.append(f"log p(x|y) {found.nats[index]:,.1f} nats".replace("-", "−"))
            lines.append(f"p(y|x) {found.share[index]:.1%}")
        lines += [f"{judge} reads: {names[read[index]]}" for judge, read in found.opinions.items()]
        notes.append(lines)
    taken = "inferred by the model" if found.inferred else "as given"
    own = f"Its own label: {names[found.own]} ({taken}), framed."
    if not uses:
        own = "No label reaches this model, so all labels give the same picture."
    why = (
        "" if found.opinions or not uses else " No judge is in the cache; condvae evaluate trains them."
    )
    head = markup.cards(image[None], ["the input"])
    return head + markup.said(own + why) + markup.cards(found.images, names, notes, found.own)


# ------------------------------------------------------------------------------------------ latent space


def _latent_space(gr: Any, subject: Subject, study: Study | None) -> None:
    if study is None:
        gr.HTML(markup.said("The run's test images are not on this disk, so there is no map of them."))
        return
    names, reach = subject.names, study.reach
    lively = study.lively[:SLIDERS]
    with gr.Row():
        with gr.Column(min_width=300):
            gr.HTML(
                markup.said(
                    f"{len(study.labels):,} test images on the plane of most variance of their latents. "
                    "Click on a place, or set it below, to see what is there under a label."
                )
            )
            plane = gr.Image(
                class_map(study.points, study.labels, names, reach),
                type="pil",
                label="Map of the test images",
                interactive=False,
            )
            across = gr.Slider(-reach, reach, 0, label="Across")
            up = gr.Slider(-reach, reach, 0, label="Up")
        with gr.Column(min_width=300):
            label = gr.Dropdown(list(names), value=names[0], label="Decoded under")
            result = gr.HTML(label="What is there")
            start = gr.Number(0, label="Start the sliders at a test image", precision=0, minimum=0)
            sliders = [gr.Slider(-4, 4, 0, label=f"Latent {number}") for number in lively]
            moved = gr.HTML(label="With these latents")

    def there(x: float, y: float, shown: str) -> tuple[Any, str]:
        image = answers.decoded(subject, study.place(x, y)[None], [_label(subject, shown) or 0])
        picture = class_map(study.points, study.labels, names, reach, (x, y))
        return picture, markup.cards(image, [shown])

    def pointed(event: Any) -> tuple[float, float]:
        return point_of(event.index, reach)

    def begun(index: float | None) -> Sequence[float]:
        chosen = answers.latents_of(subject, int(index or 0))
        return [float(np.clip(chosen[number], -4, 4)) for number in lively]

    def slid(shown: str, index: float | None, *values: float) -> str:
        latents = answers.latents_of(subject, int(index or 0))
        latents[lively] = values
        image = answers.decoded(subject, latents[None], [_label(subject, shown) or 0])
        return markup.cards(image, [shown])

    pointed.__annotations__["event"] = gr.SelectData  # by which gradio knows to hand over the place
    plane.select(pointed, None, [across, up])
    for control in (across, up, label):
        control.change(asked(there), [across, up, label], [plane, result], show_progress="hidden")
    start.change(asked(begun), start, sliders)
    for control in (*sliders, label):
        control.change(asked(slid), [label, start, *sliders], moved, show_progress="hidden")


# -------------------------------------------------------------------------------------- between, samples


def _between(gr: Any, subject: Subject) -> None:
    if subject.test is None:
        gr.HTML(markup.said("The run's test images are not on this disk."))
        return
    names = list(subject.names)
    with gr.Row():
        first = gr.Number(0, label="From test image", precision=0, minimum=0)
        second = gr.Number(1, label="To test image", precision=0, minimum=0)
        steps = gr.Slider(3, 25, 9, step=1, label="Steps")
    under = gr.Dropdown(names, value=[], multiselect=True, label="Under (by default their own labels)")
    go = gr.Button("Go from one to the other", variant="primary")
    result = gr.HTML(label="The way")

    def gone(one: float | None, other: float | None, number: float, chosen: list[str]) -> str:
        ends = [answers.numbered(subject, int(which or 0)) for which in (one, other)]
        own = (ends[0][1], ends[1][1])
        labels = [names.index(name) for name in chosen] or list(dict.fromkeys(own))
        rows = answers.journey(subject, (ends[0][0], ends[1][0]), own, labels, int(number))
        film = animation_of(rows.swapaxes(0, 1), "webp")
        words = f"from test image {int(one or 0)} to {int(other or 0)}"
        parts = [markup.wide(markup.moving(film, "webp", f"An animation {words}"))]
        for label, row in zip(labels, rows, strict=True):
            shares = [f"{share:.0%}" for share in np.linspace(0, 1, len(row))]
            parts.append(markup.said(f"Under {names[label]}:") + markup.cards(row, shares))
        return "".join(parts)

    go.click(asked(gone), [first, second, steps, under], result)


def _samples(gr: Any, subject: Subject) -> None:
    names = list(subject.names)
    with gr.Row():
        label = gr.Dropdown(["every class", *names], value="every class", label="Class")
        count = gr.Slider(1, 24, 6, step=1, label="Images a class")
        temperature = gr.Slider(0, 1.5, 1, label="Temperature: below 1 more typical, less varied")
        guidance = gr.Slider(0, 4, 0, label="Guidance: above 0 labels are exaggerated")
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
    go = gr.Button("Make images up", variant="primary")
    result = gr.HTML(label="Samples")

    def made(chosen: str, number: float, warmth: float, push: float, which: float | None) -> str:
        labels = list(range(len(names)))[:20] if chosen == "every class" else [names.index(chosen)]
        seed = int(which or 0)
        rows = answers.made_up(subject, labels, int(number), float(warmth), float(push), seed)
        return "".join(
            markup.said(names[each]) + markup.cards(row, [str(i + 1) for i in range(len(row))])
            for each, row in zip(labels, rows, strict=True)
        )

    go.click(asked(made), [label, count, temperature, guidance, seed], result)


# ---------------------------------------------------------------------------------------- numbers, audit


def _numbers(gr: Any, subject: Subject) -> None:
    run = subject.run
    rows = answers.evaluation_rows(run)
    nothing = markup.said(f"Not evaluated yet; do it with: condvae evaluate {run.path}")
    gr.HTML(markup.table(rows) if rows else nothing)
    if subject.test is not None:
        look = gr.Button("Look for the hardest test images")
        result = gr.HTML(label="Hardest images")
        look.click(asked(lambda: hardest_markup(subject)), None, result)
    for file in sorted((run.path / "figures").glob("*.png")):
        with gr.Accordion(file.name, open=file.name in ("bounds.png", "wrong-labels.png")):
            gr.HTML(markup.wide(markup.moving(file.read_bytes(), "png", file.stem)))


def hardest_markup(subject: Subject) -> str:
    """The test images that the model explains worst, and each class's mean."""
    found = answers.hardest(subject)
    names = subject.names
    proper = subject.run.model.likelihood.is_probability
    what = "ELBO, nats" if proper else "negative loss (no bound), nats"
    titles = [names[label] for label in found.labels]
    notes = [[f"{value:,.1f}".replace("-", "−")] for value in found.nats]
    rows = [
        (name, "-" if np.isnan(value) else f"{value:,.2f}".replace("-", "−"))
        for name, value in zip(names, found.by_class, strict=True)
    ]
    return (
        markup.said(f"The hardest of {found.scored:,} test images, by one draw each ({what}):")
        + markup.cards(found.images, titles, notes)
        + markup.table(rows, ("class", f"mean {what}"))
    )


def _audit(gr: Any, subject: Subject, audit: str | Path | None) -> None:
    if audit is None:
        gr.HTML(markup.said("No audit was given; show one with: condvae explore RUN --audit FOLDER"))
        return
    rows = answers.audit_rows(audit)
    roots = [Path(subject.run.config.data.source), Path(audit)]
    shown = [(row, answers.audited_picture(row, roots, subject.run.model.shape)) for row in rows[:48]]
    seen = [(row, picture) for row, picture in shown if picture is not None]
    if seen:
        titles = [str(row["file"]) for row, _ in seen]
        notes = [[f"given {row['given']}", f"suggested {row['suggested']}"] for row, _ in seen]
        gr.HTML(markup.cards(np.stack([picture for _, picture in seen]), titles, notes))
    cells = [[str(row[name]) for name in answers.ISSUES] for row in rows]
    gr.HTML(markup.table(cells, answers.ISSUES) if rows else markup.said("The audit found nothing."))


def _label(subject: Subject, shown: str) -> int | None:
    """The number of the class that a dropdown shows."""
    return subject.names.index(shown) if shown in subject.names else None
