"""The page as Blocks of Gradio: controls, and what happens when they are used. Nothing is computed here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from phosphene.errors import InputError, PhospheneError
from phosphene.labels import Labels
from phosphene.registry import methods
from phosphene.runtime import Prepared
from phosphene.web import views
from phosphene.web.asks import ASKS, Ask, AuditAsk, ExplainAsk, LayerAsk, read
from phosphene.web.audited import SHOWN, SORTS
from phosphene.web.desk import Desk
from phosphene.web.pictures import MAX_BYTES, Chosen, upload
from phosphene.web.views.frame import in_page, render
from phosphene.web.views.remember import MAX_CLASSES
from phosphene.web.worker import Job, State

# Of (question, what was sent, job): gives the answer so far, again and again.
Work = Callable[[Any, Mapping[str, Any], Job], Any]

# As many may ask at the same time; the worker has its own, smaller bound and says who is before whom.
_AT_ONCE = 256
_TABS = {
    "explain": "Explain",
    "locate": "Locate",
    "remember": "Remember",
    "layer": "Layer",
    "compare": "Compare",
    "audit": "Audit",
}


def look() -> dict[str, Any]:
    """How the page is mounted: theme, style and script, all served by this server alone."""
    # Bold: the semi-bold that Gradio brings lacks most letters.
    fonts = [gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="orange", neutral_hue="stone", font=fonts, font_mono=["ui-monospace", "monospace"]
    )
    head = (
        '<link rel="stylesheet" href="phosphene/page.css"><script src="phosphene/page.js"></script>'
        '<meta name="description" content="See what an image classifier has learned.">'
    )
    return {
        "theme": theme.set(**_COLORS),
        "head": head,
        "footer_links": [],
        "run_history": False,
        "show_error": False,
        "ssr_mode": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "max_file_size": MAX_BYTES,
    }


# Of the report as well; each with its twin in the dark.
_COLORS = {
    "body_background_fill": "#fbfaf8",
    "body_background_fill_dark": "#141416",
    "body_text_color": "#1d1d22",
    "body_text_color_dark": "#ececf0",
    "body_text_color_subdued": "#63626a",
    "body_text_color_subdued_dark": "#a3a2ae",
    "background_fill_primary": "#ffffff",
    "background_fill_primary_dark": "#1c1c20",
    "background_fill_secondary": "#f4f2ee",
    "background_fill_secondary_dark": "#232328",
    "border_color_primary": "#ddd9d1",
    "border_color_primary_dark": "#37373f",
    "block_background_fill": "transparent",
    "block_background_fill_dark": "transparent",
    "block_border_width": "0px",
    "block_border_width_dark": "0px",
    "block_label_background_fill": "transparent",
    "block_label_background_fill_dark": "transparent",
    "block_label_border_width": "0px",
    "block_label_text_color": "#63626a",
    "block_label_text_color_dark": "#a3a2ae",
    "block_title_text_color": "#63626a",
    "block_title_text_color_dark": "#a3a2ae",
    "block_title_text_weight": "600",
    "block_title_text_size": "13px",
    "block_padding": "0px",
    "block_shadow": "none",
    "input_background_fill": "#ffffff",
    "input_background_fill_dark": "#1c1c20",
    "input_border_color": "#c9c4ba",
    "input_border_color_dark": "#45454f",
    "input_border_color_focus": "#c2410c",
    "input_border_color_focus_dark": "#fb923c",
    "input_radius": "9px",
    "input_shadow": "none",
    "input_placeholder_color": "#76757e",
    "input_placeholder_color_dark": "#908f9b",
    "button_large_radius": "9px",
    "button_primary_background_fill": "#c2410c",
    "button_primary_background_fill_dark": "#fb923c",
    "button_primary_background_fill_hover": "#9a3412",
    "button_primary_background_fill_hover_dark": "#fdba74",
    "button_primary_text_color": "#ffffff",
    "button_primary_text_color_dark": "#1c0f05",
    "button_secondary_background_fill": "transparent",
    "button_secondary_background_fill_dark": "transparent",
    "button_secondary_border_color": "#c9c4ba",
    "button_secondary_border_color_dark": "#45454f",
    "checkbox_label_background_fill": "transparent",
    "checkbox_label_background_fill_dark": "transparent",
    "layout_gap": "18px",
    "form_gap_width": "0px",
    "panel_background_fill": "transparent",
    "panel_background_fill_dark": "transparent",
}


def build(desk: Desk, uploads: Path) -> gr.Blocks:
    """All views of a desk.

    Args:
        desk: what there is to look at.
        uploads: folder that the server writes what users send to.
    """
    return _Page(desk, uploads).blocks


class _Page:
    """The controls by name, and the wires between them."""

    def __init__(self, desk: Desk, uploads: Path) -> None:
        self.desk, self.uploads = desk, uploads
        self.controls: dict[str, Any] = {}
        self.pickers: list[tuple[Any, Sequence[tuple[str, str]]]] = []
        self.layers: list[Any] = []
        with gr.Blocks(
            title="phosphene", analytics_enabled=False, fill_width=True, delete_cache=(300, 1800)
        ) as self.blocks:
            gr.HTML(render("top", tabs=_TABS, audits=bool(desk.runs)), elem_id="top", apply_default_css=False)
            with gr.Row(elem_id="desk"):
                with gr.Column(
                    elem_id="rail", elem_classes="single" if len(desk.models) == 1 else "", scale=0, min_width=300
                ):
                    self._rail()
                with gr.Column(elem_id="stage", scale=1, min_width=300):
                    for tab in _TABS:
                        with gr.Column(elem_classes=["view", f"view-{tab}"], elem_id=f"view-{tab}"):
                            getattr(self, f"_{tab}")()
            self._wire()
        self.blocks.queue(max_size=_AT_ONCE, default_concurrency_limit=None, api_open=False)

    # Controls

    def _rail(self) -> None:
        several = len(self.desk.models) > 1
        self.model = gr.Dropdown(
            _networks(self.desk.models),
            value=self.desk.first,
            label="Network",
            visible=several or "hidden",
            allow_custom_value=True,
        )
        self.picture = gr.Image(
            label="Picture",
            show_label=False,
            image_mode=None,
            type="filepath",
            sources=["upload", "clipboard", "webcam"],
            buttons=["fullscreen"],
            height=260,
            elem_id="picture",
            placeholder="Drop a picture\nor click to choose one",
            alt_text="the picture that is looked at",
        )
        self.example = gr.Textbox(visible="hidden", elem_id="example", label="packaged picture")
        self.examples = gr.HTML(
            render("examples", names=list(self.desk.packaged.by_name)),
            js_on_load="element.addEventListener('pick', e => trigger('pick', e.detail));",
            elem_id="examples",
            apply_default_css=False,
        )
        self.search = gr.Textbox(visible="hidden", label="address")

    def _explain(self) -> None:
        with gr.Row(elem_classes="controls"):
            self._picker("explain.classes", "Class", best=True)
            self._picker("explain.versus", "Rather than", none="no other class")
            self._own("explain.methods", self._methods("Methods", ["grad_cam", "saliency"], several=True))
        with gr.Accordion("Layer and view", open=False, elem_classes="more"), gr.Row(elem_classes="controls"):
            self._layer("explain.layer", "Layer of the methods that look at one, and of clicks")
            self._own(
                "explain.view",
                gr.Radio(
                    [("center, as trained", "center"), ("whole frame", "whole")],
                    value="center",
                    label="What the network sees",
                ),
            )
        self._answer("explain", "Explain")
        self.place = gr.HTML(elem_id="explain-place", apply_default_css=False)

    def _locate(self) -> None:
        with gr.Row(elem_classes="controls"):
            self._picker("locate.classes", "Class", best=True)
            self._own(
                "locate.preset",
                gr.Dropdown([("best", "best"), ("as in the paper", "paper")], value="best", label="Preset"),
            )
            self._own("locate.methods", self._methods("Maps (those of the preset, if none)", [], several=True))
            self._own(
                "locate.segment",
                gr.Dropdown(
                    [("as the preset", ""), ("GraphCut", "graphcut"), ("threshold", "threshold")],
                    value="",
                    label="Cut by",
                ),
            )
        self._answer("locate", "Locate")

    def _remember(self) -> None:
        with gr.Row(elem_classes="controls"):
            self._picker("remember.classes", "Classes", several=MAX_CLASSES)
            self._own("remember.fuse", gr.Checkbox(False, label="fuse in one image", elem_classes="check"))
            self._own("remember.recipe", gr.Dropdown([("the usual", ""), *_recipes()], value="", label="Recipe"))
            self._own(
                "remember.preset",
                gr.Dropdown(
                    [("the usual", ""), ("best", "best"), ("as in the paper", "paper")], value="", label="Preset"
                ),
            )
            self._own(
                "remember.steps",
                gr.Number(64, precision=0, minimum=0, maximum=600, label="Steps (0: all of the preset)"),
            )
            self._own("remember.seed", gr.Number(0, precision=0, label="Seed"))
        self._answer("remember", "Draw")

    def _layer(self, name: str = "", label: str = "") -> None:
        if name:
            box = gr.Dropdown(_layer_choices(self.desk.classifier("")), value="", label=label, allow_custom_value=True)
            self.layers.append(self._own(name, box))
            return
        with gr.Row(elem_classes="controls"):
            self._layer("layer.layer", "Layer")
            self._own(
                "layer.show",
                gr.Radio(
                    [("channels, for the picture", "activations"), ("features, of a few pictures", "features")],
                    value="activations",
                    label="Show",
                ),
            )
            self._own("layer.count", gr.Number(24, precision=0, minimum=1, maximum=64, label="Channels"))
        with gr.Accordion("A few pictures, and how features are drawn", open=False, elem_classes="more", elem_id="few"):
            self.few = gr.File(
                file_count="multiple",
                file_types=["image"],
                label="Pictures, about ten or more",
                elem_id="pictures",
                height=150,
            )
            with gr.Row(elem_classes="controls"):
                self._own("layer.facets", gr.Number(2, precision=0, minimum=1, maximum=4, label="Facets"))
                self._own("layer.exemplars", gr.Number(4, precision=0, minimum=1, maximum=12, label="Pictures a facet"))
                self._own("layer.steps", gr.Number(48, precision=0, minimum=1, maximum=300, label="Steps"))
        self._answer("layer", "Show")

    def _compare(self) -> None:
        networks = _networks(self.desk.models)
        with gr.Row(elem_classes="controls"):
            self._own("compare.method", self._methods("This method", "grad_cam"))
            self._own("compare.other_method", self._methods("with this one", "saliency"))
            self._own(
                "compare.other_model",
                gr.Dropdown(
                    [("the same network", ""), *networks],
                    value="",
                    label="of",
                    visible=True if len(networks) > 1 else "hidden",
                ),
            )
            self._picker("compare.classes", "Class", best=True)
        self._answer("compare", "Compare")

    def _audit(self) -> None:
        runs = list(self.desk.runs)
        if not runs:
            gr.HTML(render("no_runs"), apply_default_css=False)
        with gr.Row(elem_classes="controls", visible=True if runs else "hidden"):
            self._own(
                "audit.run", gr.Dropdown(runs, value=runs[0] if runs else "", label="Run", allow_custom_value=True)
            )
            self._own("audit.find", gr.Textbox("", label="Name or class", placeholder="any", max_lines=1))
            self._own(
                "audit.show", gr.Dropdown([(text, key) for key, text in SHOWN.items()], value="all", label="Which")
            )
            self._own(
                "audit.sort",
                gr.Dropdown([(text, key) for key, (text, _) in SORTS.items()], value="order", label="Order"),
            )
            self._own("audit.page", gr.Number(1, precision=0, minimum=1, label="Page", visible="hidden"))
        self._answer("audit", "Look", stop=False, visible=bool(runs))

    def _own(self, name: str, control: Any) -> Any:
        control.elem_id = name.replace(".", "-")
        self.controls[name] = control
        return control

    def _picker(self, name: str, label: str, *, best: bool = False, none: str = "", several: int = 0) -> None:
        """A class picker that searches in numbers, names and further names."""
        first = [("the best class", "top1"), ("the three best", "top3")] if best else [(none, "")] if none else []
        choices = [*first, *_classes(self.desk.classifier("").labels)]
        control = gr.Dropdown(
            choices,
            value=[] if several else first[0][1],
            multiselect=bool(several),
            max_choices=several or None,
            label=label,
            allow_custom_value=True,
        )
        self.pickers.append((self._own(name, control), first))

    def _methods(self, label: str, value: Any, *, several: bool = False) -> Any:
        names = [(found.title, name) for name, found in methods().items() if not found.traits.get("wraps")]
        return gr.Dropdown(sorted(names), value=value, multiselect=several, label=label, allow_custom_value=True)

    def _answer(self, tab: str, verb: str, *, stop: bool = True, visible: bool = True) -> None:
        """The button of a view, the line that says how far it is, and the place of its answer."""
        with gr.Row(elem_classes="run", visible=True if visible else "hidden"):
            self.controls[f"{tab}!run"] = gr.Button(verb, variant="primary", elem_id=f"run-{tab}", scale=0)
            if stop:
                self.controls[f"{tab}!stop"] = gr.Button("Stop", elem_id=f"stop-{tab}", scale=0)
            self.controls[f"{tab}!status"] = gr.HTML(
                elem_id=f"status-{tab}",
                elem_classes="status-line",
                apply_default_css=False,
                js_on_load="watch('value', () => window.phosphene.said(element));",
            )
        self.controls[f"{tab}!answer"] = gr.HTML(
            elem_id=f"answer-{tab}",
            apply_default_css=False,
            js_on_load="for (const name of ['place', 'choose', 'turn']) "
            "element.addEventListener(name, e => trigger(name, e.detail));"
            "watch('value', () => window.phosphene.drawn(element));"
            "/* 'place' 'choose' 'turn' */",
        )

    # Wires

    def _wire(self) -> None:
        place = gr.Textbox(visible="hidden", label="place", elem_id="place")
        for tab, kind in ASKS.items():
            self._event(self.controls[f"{tab}!run"].click, kind, tab, self._outputs(tab))
            if f"{tab}!stop" in self.controls:
                self.controls[f"{tab}!stop"].click(
                    self._stopper(tab), None, None, queue=False, api_visibility="private", show_progress="hidden"
                )
        answer = self.controls["explain!answer"]
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        answer.place(self._place_of, None, place, **private).then(None, js="() => window.phosphene.press('ask-place')")
        ask = gr.Button("Ask", visible="hidden", elem_id="ask-place")
        self._event(ask.click, ExplainAsk, "place", [self.controls["explain!status"], self.place], ("at", place))
        answer.choose(_chosen_class, None, self.controls["explain.classes"], **private).then(
            None, js="() => window.phosphene.press('run-explain')"
        )
        self.controls["audit!answer"].turn(_turned, None, self.controls["audit.page"], **private).then(
            None, js="() => window.phosphene.press('run-audit')"
        )
        filters = [self.controls[f"audit.{name}"] for name in ("run", "find", "show", "sort")]
        gr.on(
            [filters[0].input, filters[1].submit, filters[2].input, filters[3].input],
            lambda: 1,
            None,
            self.controls["audit.page"],
            **private,
        ).then(None, js="() => window.phosphene.press('run-audit')")
        self.examples.pick(self._picked, None, [self.example, self.picture], **private).then(
            None, js="() => window.phosphene.changed()"
        )
        self.picture.input(lambda: "", None, self.example, **private).then(None, js="() => window.phosphene.changed()")
        self.model.input(self._of_model, self.model, [*(box for box, _ in self.pickers), *self.layers], **private)
        settings = [control for name, control in self.controls.items() if "!" not in name]
        opened = [self.model, self.example, self.picture, *settings, self.controls["explain!status"]]
        self.blocks.load(self._opened, self.search, opened, js="() => [window.location.search]", **private).then(
            None, js="() => window.phosphene.opened()"
        )
        self.blocks.unload(self._gone)

    def _event(self, event: Any, kind: type[Ask], name: str, outputs: list[Any], *more: tuple[str, Any]) -> None:
        """Ask a view: its inputs are the picture, the network, and the controls that bear the names of its fields."""
        first = [("picture", self.picture), ("example", self.example), ("model", self.model)]
        few = [("few", self.few)] if kind is LayerAsk else []
        own = [
            (field, control)
            for tab, _, field, control in ((*key.partition("."), control) for key, control in self.controls.items())
            if tab == kind.tab and field
        ]
        inputs = [*first, *few, *own, *more]
        event(
            self._asker(kind, self._works()[name], inputs),
            [control for _, control in inputs],
            outputs,
            api_name=name,
            # Values come as they were sent: Gradio's own way opens a picture, whatever it claims to be.
            preprocess=False,
            show_progress="hidden",
            trigger_mode="multiple",
            concurrency_limit=None,
        )

    def _outputs(self, tab: str) -> list[Any]:
        return [self.controls[f"{tab}!status"], self.controls[f"{tab}!answer"]]

    def _stopper(self, tab: str) -> Callable[[gr.Request], None]:
        def stop(request: gr.Request) -> None:
            self.desk.worker.cancel(_owner(request, tab))

        return stop

    def _gone(self, request: gr.Request) -> None:
        self.desk.worker.cancel(str(request.session_hash))

    def _picked(self, event: gr.EventData) -> tuple[str, Any]:
        name = str(event._data.get("name", "")) if isinstance(event._data, dict) else ""
        return self._shown(name)

    def _shown(self, name: str) -> tuple[str, Any]:
        """A packaged picture's name, and a copy of it to look at: what is computed with is its own file."""
        from phosphene.images import read_image
        from phosphene.render import thumbnail

        chosen = self.desk.packaged.chosen(name)
        return chosen.name, thumbnail(read_image(self.desk.packaged.by_name[chosen.name]), 960)

    def _place_of(self, event: gr.EventData) -> str:
        data = event._data if isinstance(event._data, dict) else {}
        return f"{float(data.get('x', 0)):.4f}x{float(data.get('y', 0)):.4f}"

    def _of_model(self, model: str) -> list[Any]:
        classifier = self.desk.classifier(model)
        classes, layers = _classes(classifier.labels), _layer_choices(classifier)
        return [
            *(gr.update(choices=[*first, *classes]) for _, first in self.pickers),
            *(gr.update(choices=layers, value="") for _ in self.layers),
        ]

    def _opened(self, search: str) -> dict[Any, Any]:
        """The controls as an address says; what it says wrong is told where Explain tells how far it is."""
        try:
            ask = read(search or "")
            values: dict[Any, Any] = {self.model: self.desk.spec(ask.model)}
            if ask.picture:
                values[self.example], values[self.picture] = self._shown(ask.picture)
            for name, control in self.controls.items():
                tab, _, field = name.partition(".")
                if tab == ask.tab and field:
                    value = getattr(ask, field)
                    values[control] = list(value) if isinstance(value, tuple) else value
            if isinstance(ask, AuditAsk) and self.desk.runs:
                values[self.controls["audit.run"]] = self.desk.run(ask.run).name
            return values
        except PhospheneError as error:
            return {self.controls["explain!status"]: render("refused", text=in_page(str(error)))}

    # What runs

    def _asker(self, kind: type[Ask], work: Work, inputs: Sequence[tuple[str, Any]]) -> Any:
        """What is called when a view is asked: makes the question of what was sent, and follows the work."""
        names = [name for name, _ in inputs]

        async def run(request: gr.Request, *values: Any) -> AsyncIterator[Any]:
            sent = dict(zip(names, values, strict=True))
            if sent["model"] == self.desk.first:
                sent["model"] = ""  # as an address says it
            ask = kind.sent({**sent, "picture": sent["example"]})
            async for update in self._follow(request, ask, lambda job: work(ask, sent, job)):
                yield update

        return run

    def _works(self) -> dict[str, Work]:
        """What each view computes, of (question, what was sent, job)."""
        desk = self.desk

        def layer(ask: Any, sent: Mapping[str, Any], job: Job) -> Any:
            if ask.show != "features":
                return views.activations(desk, ask, self._picture_of(sent), job)
            few = sent["few"] if isinstance(sent["few"], list) else []
            return views.features(desk, ask, [self._uploaded(file) for file in few], job)

        return {
            "explain": lambda ask, sent, job: views.explain(desk, ask, self._picture_of(sent), job),
            "place": lambda ask, sent, job: views.place(desk, ask, self._picture_of(sent), job),
            "locate": lambda ask, sent, job: views.locate(desk, ask, self._picture_of(sent), job),
            "remember": lambda ask, _sent, job: views.remember(desk, ask, job),
            "layer": layer,
            "compare": lambda ask, sent, job: views.compare(desk, ask, self._picture_of(sent), job),
            "audit": lambda ask, _sent, job: views.audit(desk, ask, job),
        }

    def _picture_of(self, sent: Mapping[str, Any]) -> Chosen:
        if isinstance(sent["example"], str) and sent["example"]:
            return self.desk.packaged.chosen(sent["example"])
        if not sent["picture"]:
            raise InputError("choose a picture first: drop one, paste one, or take one of the examples")
        return self._uploaded(sent["picture"])

    def _uploaded(self, file: Any) -> Chosen:
        """The picture that was sent before, as Gradio's script names it; the gate saw to it that it is one of those."""
        path = file.get("path") if isinstance(file, dict) else None
        if not isinstance(path, str) or not Path(path).resolve().is_relative_to(self.uploads.resolve()):
            raise InputError("the picture was not uploaded here")
        name = file.get("orig_name")
        return upload(path, name if isinstance(name, str) else None)

    async def _follow(self, request: gr.Request, ask: Ask, work: Callable[[Job], Any]) -> AsyncIterator[Any]:
        """(how far it is, the answer so far) as often as either changes; the work is stopped when nobody follows."""
        address = ask.address()
        tab = "place" if isinstance(ask, ExplainAsk) and ask.at else ask.tab
        try:
            job = self.desk.worker.submit(_owner(request, tab), work)
        except PhospheneError as error:
            yield _status(State("failed", text=str(error)), address), gr.skip()
            return
        shown: Any = None
        async for state in job.states():
            # The last time always whole: programs that ask the page read its last word alone.
            value = gr.skip() if state.value is None or (state.value is shown and not state.is_over) else state.value
            shown = state.value
            yield _status(state, address), value


def _owner(request: gr.Request, tab: str) -> str:
    return f"{request.session_hash}/{tab}"


def _status(state: State, address: str) -> str:
    left = ""
    if state.share and state.seconds > 2:
        left = f"about {max(1, round(state.seconds * (1 - state.share) / state.share))} s left"
    return render("status", state=replace(state, text=in_page(state.text)), left=left, address=address)


def _chosen_class(event: gr.EventData) -> str:
    return str(event._data.get("index", "top1")) if isinstance(event._data, dict) else "top1"


def _turned(event: gr.EventData) -> int:
    return max(1, int(event._data.get("page", 1))) if isinstance(event._data, dict) else 1


def _networks(specs: Iterable[str]) -> list[tuple[str, str]]:
    """Each network, files without their folders where that still tells them apart."""
    specs = list(specs)
    names = [spec.rsplit("/", 1)[-1] for spec in specs]
    return list(zip(names if len(set(names)) == len(names) else specs, specs, strict=True))


def _classes(labels: Labels) -> list[tuple[str, str]]:
    """Each class with its number, its name and further names, all of which are searched."""
    further = labels.synonyms or ((),) * len(labels)
    return [
        (f"{name}  ·  {index}" + "".join(f", {other}" for other in others if other != name), str(index))
        for index, (name, others) in enumerate(zip(labels.names, further, strict=True))
    ]


def _layer_choices(classifier: Prepared) -> list[tuple[str, str]]:
    found: Mapping[str, tuple[int, ...]] = {layer.name: tuple(layer.shape) for layer in classifier.layers}
    named = [(f"{name}  ·  {' x '.join(map(str, shape))}", name) for name, shape in found.items() if name]
    return [(f"the usual one  ·  {classifier.default_layer}", ""), *named]


def _recipes() -> list[tuple[str, str]]:
    return [(found.title, name) for name, found in methods("recipe").items() if found.family == "synthesis"]
