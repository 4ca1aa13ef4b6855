// What can be asked for, and what is sent for it.

import { byId, element, empty, fill, mark } from "./dom.js";
import { of } from "./format.js";

let models = [];

/** Shows the models that an answer lists, or why there are none. */
export function showModels(answer, problem) {
    models = answer?.models ?? [];
    if (problem) {
        fill(byId("models-count"));
        fill(byId("models-table"), empty(`The models cannot be listed: ${problem.message}`));
        return;
    }
    const can = models.filter((model) => model.invokable).length;
    fill(byId("models-count"), `${can} of ${of(models.length, "model", "models")} can be invoked`);
    narrow();
}

byId("models-filter").addEventListener("input", narrow);

function narrow() {
    const wanted = byId("models-filter").value.trim().toLowerCase();
    const found = models.filter((model) => `${model.modelId} ${model.modelName ?? ""}`.toLowerCase().includes(wanted));
    if (!found.length) {
        fill(
            byId("models-table"),
            empty(models.length ? "No model has that in its name." : "No models are listed yet."),
        );
        return;
    }
    const titles = ["Asked for", "Sent as", "By", "Invokable"].map((title) => element("th", { scope: "col" }, title));
    fill(
        byId("models-table"),
        element("table", {}, element("thead", {}, element("tr", {}, titles)), element("tbody", {}, found.map(row))),
    );
}

function row(model) {
    const sent =
        model.invokedAs ??
        (model.createsProfile ? "a profile that the daemon creates" : model.invokable ? model.modelId : "–");
    const why = model.why ?? model.reason;
    return element(
        "tr",
        {},
        element(
            "th",
            { scope: "row", class: "name", title: model.modelId },
            model.modelId,
            element("span", { class: "quiet later" }, model.modelName ? ` ${model.modelName}` : ""),
        ),
        element("td", { class: "name", title: sent }, sent === model.modelId ? "the same name" : sent),
        element("td", {}, [model.servedBy, model.partition].filter(Boolean).join(", ")),
        element(
            "td",
            { class: "name wrap" },
            model.invokable ? mark("good", "yes") : mark("none", "no"),
            why ? `: ${why}` : "",
        ),
    );
}
