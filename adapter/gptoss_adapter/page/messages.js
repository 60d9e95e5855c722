// How the messages of a conversation look.

import { copyText, element, markdown } from "./markdown.js";

const answers = new WeakMap();

/** Return what shows a message. actions: what its buttons do; edit, retry and result may be missing. */
export function messageView(message, actions = {}) {
  if (message.role === "user") return userView(message, actions);
  if (message.role === "tool") return toolView(message);
  // the same one as before, so that what was opened stays open
  const view = answers.get(message) ?? element("article", { class: "assistant" });
  answers.set(message, view);
  fillAnswer(view, message, actions);
  return view;
}

function userView(message, { edit, retry }) {
  const view = element("article", { class: "user", "aria-label": "You" }, message.content);
  const actions = [...(edit ? [button("Edit", edit)] : []), ...(retry ? [button("Retry", retry)] : [])];
  if (actions.length) view.append(element("footer", {}, ...actions));
  return view;
}

function toolView(message) {
  return element("article", { class: "tool" }, element("div", { class: "call" }, element("small", {}, "Result given"), element("pre", {}, message.content)));
}

/** Show an answer as far as it has come. What stands already is left alone: it may be pressed, scrolled or selected. */
export function fillAnswer(view, message, { retry, result, isRunning } = {}) {
  const body = view.querySelector(":scope > .body") ?? view.appendChild(element("div", { class: "body" }));
  if (message.reasoning) fillReasoning(view, message, isRunning);
  replaceChanged(body, markdown(message.content ?? ""));
  body.classList.toggle("waiting", Boolean(isRunning));
  while (body.nextSibling) body.nextSibling.remove();
  const parts = [];
  for (const call of message.tool_calls ?? []) parts.push(callView(call, result));
  if (message.fault) parts.push(element("p", { class: "fault" }, message.fault));
  if (!isRunning) parts.push(footer(message, retry));
  view.append(...parts);
}

function fillReasoning(view, message, isRunning) {
  let details = view.querySelector(":scope > details.reasoning");
  if (!details) view.prepend((details = element("details", { class: "reasoning" }, element("summary"), element("div"))));
  const label = isRunning && !message.content ? "Thinking…" : "Reasoning";
  if (details.firstChild.textContent !== label) details.firstChild.textContent = label;
  if (details.lastChild.textContent !== message.reasoning) details.lastChild.textContent = message.reasoning;
}

function replaceChanged(view, nodes) {
  let same = 0;
  while (same < nodes.length && view.childNodes[same]?.isEqualNode(nodes[same])) same += 1;
  while (view.childNodes.length > same) view.lastChild.remove();
  view.append(...nodes.slice(same));
}

/** Return the words of an answer's view, for those who do not see it. */
export function spoken(view) {
  const said = view.querySelectorAll(":scope > .body > :not(.code), :scope > .body > .code > pre, :scope > .call > strong, :scope > .fault");
  return [...said].map((part) => (part.tagName === "STRONG" ? `Calls ${part.innerText}` : part.innerText)).join("\n");
}

function callView(call, result) {
  const shown = element("div", { class: "call" }, element("small", {}, "Calls "), element("strong", {}, call.name), element("pre", { tabindex: "0" }, call.type === "custom" ? call.arguments : pretty(call.arguments)));
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
