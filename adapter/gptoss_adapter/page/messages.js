// How the messages of a conversation look.

import { copyText, element, markdown } from "./markdown.js";

/** Return what shows a message. actions: what its buttons do; edit, retry and result may be missing. */
export function messageView(message, actions = {}) {
  if (message.role === "user") return userView(message, actions);
  if (message.role === "tool") return toolView(message);
  const view = element("article", { class: "assistant" });
  fillAnswer(view, message, actions);
  return view;
}

function userView(message, { edit }) {
  const view = element("article", { class: "user", "aria-label": "You" }, message.content);
  if (edit) view.append(element("footer", {}, button("Edit", edit)));
  return view;
}

function toolView(message) {
  return element("article", { class: "tool" }, element("div", { class: "call" }, element("small", {}, "Result given"), element("pre", {}, message.content)));
}

/** Show an answer as far as it has come. */
export function fillAnswer(view, message, { retry, result, isRunning } = {}) {
  const isOpen = view.querySelector("details.reasoning")?.open ?? false;
  const parts = [];
  if (message.reasoning) parts.push(reasoning(message, isOpen, isRunning));
  const body = element("div", { class: "body" }, ...markdown(message.content ?? ""));
  if (isRunning) body.classList.add("waiting");
  parts.push(body);
  for (const call of message.tool_calls ?? []) parts.push(callView(call, result));
  if (message.fault) parts.push(element("p", { class: "fault", role: "alert" }, message.fault));
  if (!isRunning) parts.push(footer(message, retry));
  view.replaceChildren(...parts);
}

function reasoning(message, isOpen, isRunning) {
  const label = isRunning && !message.content ? "Thinking…" : "Reasoning";
  const details = element("details", { class: "reasoning" }, element("summary", {}, label), element("div", {}, message.reasoning));
  details.open = isOpen;
  return details;
}

function callView(call, result) {
  const shown = element("div", { class: "call" }, element("small", {}, "Calls "), element("strong", {}, call.name), element("pre", { tabindex: "0" }, pretty(call.arguments)));
  if (result) {
    const text = element("textarea", { rows: "2", "aria-label": `Result of ${call.name}`, placeholder: "What the tool answers" });
    shown.append(text, button("Give result", () => result(call, text.value)));
  }
  return shown;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function footer(message, retry) {
  const told = [message.stopped ? "stopped" : "", message.served ?? "", message.figures ?? ""].filter(Boolean).join(" · ");
  const copy = button("Copy", () => copyText(message.content ?? "", copy));
  return element("footer", {}, told, element("span", { class: "grow" }), copy, ...(retry ? [button("Retry", retry)] : []));
}

export function button(label, onclick) {
  return element("button", { type: "button", class: "plain", onclick }, label);
}

export function welcome() {
  return element("div", { class: "welcome" }, element("strong", {}, "What would you like to know?"), "What is said here stays in this browser.");
}
