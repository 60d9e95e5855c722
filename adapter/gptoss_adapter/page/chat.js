// The chat: what is asked, and what comes of it.

import { ApiError, chat, json } from "./api.js";
import { element } from "./markdown.js";
import { button, fillAnswer, messageView, spoken, welcome } from "./messages.js";
import { TALKS, Talks, choices } from "./store.js";

const REDRAW_MS = 50;
const CHOSEN = ["model", "profile", "effort", "instructions", "temperature", "max-tokens", "tools"];
const NO_ROOM = "This browser has no room left: what is new is gone when this page is closed. Delete a conversation to keep it.";
const $ = (id) => document.getElementById(id);

let models = [];
let running = null; // the answer under way: its talk, its message, and what stops it
let editing = null; // the message that is written anew, and the draft that made room for it
let drawn = null; // the talk whose messages are shown
const talks = new Talks(() => running || editing);

export async function startChat(askKey) {
  $("ask").addEventListener("submit", (event) => (event.preventDefault(), send()));
  $("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), send());
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && !event.isComposing && (running ? running.stopper.abort() : endEdit()));
  $("stop").addEventListener("click", () => running?.stopper.abort());
  $("cancel-edit").addEventListener("click", () => (endEdit(), $("question").focus()));
  $("new-talk").addEventListener("click", () => (leave(), talks.begin(), draw(true), $("question").focus()));
  $("open-settings").addEventListener("click", () => showSettings($("settings").hidden));
  for (const id of CHOSEN) $(id).addEventListener("change", keepChoices);
  $("model").addEventListener("change", offerProfiles);
  addEventListener("pagehide", keepWhatCame);
  addEventListener("storage", (event) => event.key === TALKS && (talks.refresh(), drawChanged()));

  async function send() {
    const text = $("question").value.trim();
    if (!text || running) return;
    const { messages } = talks.current;
    if (editing) messages.splice(messages.indexOf(editing.message));
    $("question").value = editing?.draft ?? "";
    editing = null;
    messages.push({ role: "user", content: text });
    talks.current.title ||= text.slice(0, 60);
    await answer(askKey);
  }
  sendResult = async (call, content) => {
    talks.current.messages.push({ role: "tool", tool_call_id: call.id, content });
    const asked = talks.current.messages.findLast((message) => message.tool_calls).tool_calls;
    const given = new Set(talks.current.messages.map((message) => message.tool_call_id));
    if (asked.every((one) => given.has(one.id))) await answer(askKey);
    else (talks.save(), draw());
  };
  retry = async () => {
    while (talks.current.messages.at(-1)?.role === "assistant") talks.current.messages.pop();
    await answer(askKey);
  };
  draw(true);
  await offerModels(askKey);
}

let sendResult, retry;

// --- choices --------------------------------------------------------------------------------------------------------

async function offerModels(askKey) {
  try {
    await loadModels();
  } catch (error) {
    if (error.status === 401 && (await askKey(error.message))) return offerModels(askKey);
    $("messages").replaceChildren(element("p", { class: "fault", role: "alert" }, error.message));
  }
}

async function loadModels() {
  models = (await json("/v1/models")).data;
  // the name that stands for the profile's model comes first: it is what most want
  const names = models.map((model) => model.id).sort((one, other) => (other === "gpt-oss") - (one === "gpt-oss"));
  $("model").replaceChildren(...names.map((name) => element("option", {}, name)));
  const kept = choices.read();
  for (const id of CHOSEN) if (kept[id] !== undefined && id !== "profile") $(id).value = kept[id];
  if (!$("model").value) $("model").value = names[0];
  offerProfiles();
  if ([...$("profile").options].some((option) => option.value === kept.profile)) $("profile").value = kept.profile;
  if (kept.instructions || kept.temperature || kept["max-tokens"] || kept.tools) showSettings(true);
}

function offerProfiles() {
  const profiles = models.find((model) => model.id === $("model").value)?.profiles ?? [];
  $("profile").replaceChildren(element("option", { value: "" }, "default"), ...profiles.map((name) => element("option", {}, name)));
}

function keepChoices() {
  choices.write(Object.fromEntries(CHOSEN.map((id) => [id, $(id).value])));
}

function showSettings(isShown) {
  $("settings").hidden = !isShown;
  $("open-settings").setAttribute("aria-expanded", isShown);
}

function request() {
  const { messages } = talks.current;
  const instructions = $("instructions").value.trim();
  const tools = $("tools").value.trim();
  const body = {
    model: $("model").value || "gpt-oss",
    messages: [...(instructions ? [{ role: "developer", content: instructions }] : []), ...messages.filter(saysSomething).map(sent)],
    stream: true,
    stream_options: { include_usage: true },
  };
  if ($("profile").value) body.profile = $("profile").value;
  if ($("effort").value) body.reasoning_effort = $("effort").value;
  if ($("temperature").value) body.temperature = Number($("temperature").value);
  if ($("max-tokens").value) body.max_tokens = Number($("max-tokens").value);
  if (tools) body.tools = parsedTools(tools);
  return body;
}

function parsedTools(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ApiError(`The tools in the settings are not JSON: ${error.message}`, 400);
  }
}

// an answer that failed at once is none, and the model need not see it
function saysSomething(message) {
  return message.role !== "assistant" || message.content || isWhole(message) && message.tool_calls;
}

function isWhole(message) {
  return !message.stopped && !message.fault;
}

function sent(message) {
  if (message.role !== "assistant") return message;
  const calls = isWhole(message) && message.tool_calls?.map(sentCall);
  return { role: "assistant", content: message.content, ...(calls ? { tool_calls: calls, reasoning: message.reasoning } : {}) };
}

function sentCall({ id, type, name, arguments: given }) {
  return type === "custom" ? { id, type, custom: { name, input: given } } : { id, type: "function", function: { name, arguments: given } };
}

// --- one answer -----------------------------------------------------------------------------------------------------

async function answer(askKey) {
  const talk = talks.current;
  const message = { role: "assistant", content: "" };
  const stopper = new AbortController();
  running = { talk, message, stopper };
  talks.save();
  draw();
  announce("");
  const view = messageView(message, { isRunning: true });
  $("messages").append(view);
  scrollDown();
  let drawing;
  try {
    if (!models.length) await loadModels(); // no key had been given, or nobody had answered
    const began = performance.now();
    for await (const chunk of chat(request(), stopper.signal)) {
      take(message, chunk, performance.now() - began);
      drawing ??= setTimeout(() => ((drawing = undefined), redraw(view, message)), REDRAW_MS);
    }
  } catch (error) {
    if (error.name === "AbortError") message.stopped = true;
    else if (error.status === 401 && !message.content && (await askKey(error.message))) return void (await answer(askKey));
    else message.fault = error.message;
  } finally {
    clearTimeout(drawing);
    if (running?.stopper === stopper) running = null;
  }
  keep(talk, message);
  if (talks.current !== talk) return;
  draw();
  announce(spoken(view));
  // whoever is typing elsewhere goes on there; on a phone the keyboard would cover the answer
  if (document.activeElement === document.body && matchMedia("(pointer: fine)").matches) $("question").focus();
}

function keep(talk, message) {
  if (!talk.messages.includes(message)) talk.messages.push(message);
  talks.update(talk);
}

function keepWhatCame() {
  if (!running) return;
  running.message.stopped = true;
  keep(running.talk, running.message);
}

function redraw(view, message) {
  const isAtEnd = isScrolledDown();
  fillAnswer(view, message, { isRunning: true });
  if (isAtEnd) scrollDown();
}

function take(message, chunk, elapsed_ms) {
  message.served = chunk.model;
  const { delta, finish_reason } = chunk.choices?.[0] ?? {};
  if (delta?.reasoning || delta?.content || delta?.tool_calls) message.first_ms ??= elapsed_ms;
  if (delta?.reasoning) message.reasoning = (message.reasoning ?? "") + delta.reasoning;
  if (delta?.content) message.content += delta.content;
  for (const part of delta?.tool_calls ?? []) {
    message.tool_calls ??= [];
    const call = (message.tool_calls[part.index] ??= { id: "", name: "", arguments: "" });
    call.id ||= part.id ?? "";
    call.type ??= part.type;
    call.name += (part.function ?? part.custom)?.name ?? "";
    call.arguments += part.function?.arguments ?? part.custom?.input ?? "";
  }
  if (finish_reason === "length") message.fault = "The answer is cut: it reached the most tokens it may have.";
  if (chunk.usage) message.figures = figures(chunk.usage, message.first_ms ?? elapsed_ms, elapsed_ms);
}

function figures(usage, first_ms, whole_ms) {
  const rate = usage.completion_tokens / Math.max(whole_ms / 1000, 0.001);
  return `${usage.completion_tokens} tokens · first after ${(first_ms / 1000).toFixed(2)} s · ${rate.toFixed(0)} tokens/s`;
}

// --- drawing --------------------------------------------------------------------------------------------------------

function leave() {
  running?.stopper.abort();
  running = null;
  endEdit();
}

function draw(toEnd = false) {
  const place = toEnd || isScrolledDown() ? Infinity : $("messages").scrollTop;
  const { messages } = talks.current;
  const given = new Set(messages.map((message) => message.tool_call_id));
  const isIdle = !running && !editing;
  const views = messages.map((message, index) =>
    messageView(message, {
      edit: message.role === "user" && index >= messages.findLastIndex((one) => one.role === "user") && isIdle ? () => edit(message) : undefined,
      retry: index === messages.length - 1 && isIdle ? retry : undefined,
      result: message.tool_calls?.some((call) => !given.has(call.id)) && isWhole(message) && isIdle ? sendResult : undefined,
    }),
  );
  const firstToGo = editing ? messages.indexOf(editing.message) : Infinity;
  views.forEach((view, index) => view.classList.toggle("to-go", index >= firstToGo));
  $("messages").replaceChildren(...(views.length ? views : [welcome()]));
  $("editing").hidden = !editing;
  $("stop").hidden = !running;
  $("send").disabled = Boolean(running);
  drawn = talks.current;
  drawTalks();
  $("messages").scrollTop = Math.min(place, $("messages").scrollHeight);
}

// the talk stays as it is until the message is sent
function edit(message) {
  editing = { message, draft: $("question").value };
  $("question").value = message.content;
  draw();
  announce("Editing your message. Escape leaves it as it was.");
  $("question").focus();
}

function endEdit() {
  if (!editing) return;
  $("question").value = editing.draft;
  editing = null;
  draw();
  announce("");
}

function announce(text) {
  $("announcer").textContent = text;
}

function drawChanged() {
  if (drawn === talks.current) drawTalks();
  else draw();
}

function drawTalks() {
  const focused = $("talks").contains(document.activeElement) && document.activeElement.dataset.does;
  const items = talks.all.map((talk) => {
    const open = element("button", { type: "button", class: "open", title: talk.title, onclick: () => openTalk(talk) }, talk.title);
    const rename = button("✎", () => renameTalk(talk));
    rename.setAttribute("aria-label", `Rename ${talk.title}`);
    const remove = button("×", () => removeTalk(talk));
    remove.setAttribute("aria-label", `Delete ${talk.title}`);
    for (const [does, one] of Object.entries({ open, rename, remove })) one.dataset.does = `${does} ${talk.id}`;
    return element("li", talk.id === talks.current.id ? { "aria-current": "true" } : {}, open, rename, remove);
  });
  $("talks").replaceChildren(...items);
  if (focused) ([...$("talks").querySelectorAll("button")].find((one) => one.dataset.does === focused) ?? $("new-talk")).focus();
  $("no-room").textContent = talks.isFull ? NO_ROOM : "";
}

function openTalk(talk) {
  if (talk.id === talks.current.id) return;
  leave();
  talks.open(talk.id);
  draw(true);
}

function renameTalk(talk) {
  const title = prompt("The conversation's name", talk.title)?.trim();
  if (title) (talks.rename(talk.id, title), drawChanged());
}

function removeTalk(talk) {
  if (!confirm(`Delete “${talk.title}”?`)) return;
  const isCurrent = talk.id === talks.current.id;
  if (isCurrent) leave();
  talks.remove(talk.id);
  if (isCurrent) draw(true);
  else drawChanged();
}

function isScrolledDown() {
  const box = $("messages");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 80;
}

function scrollDown() {
  $("messages").scrollTop = $("messages").scrollHeight;
}
