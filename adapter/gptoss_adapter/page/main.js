// Which view is shown, and the key where the server asks for one.

import { setKey } from "./api.js";
import { startChat } from "./chat.js";
import { showLive } from "./live.js";

const $ = (id) => document.getElementById(id);
const SENDABLE = /^[\x21-\x7e]+$/; // what a header may hold
let asking = null;

/** Ask for a key. Resolves to whether one was given. Two that ask at once share the question. */
function askKey(reason) {
  asking ??= ask(reason).finally(() => (asking = null));
  return asking;
}

async function ask(reason) {
  const dialog = $("key-dialog");
  $("key-reason").textContent = reason;
  $("key").value = dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  const key = $("key").value.trim();
  if (dialog.returnValue !== "ok" || !key) return false;
  if (!SENDABLE.test(key)) return ask("That is no key: keys have no blanks and only letters, digits and signs of plain ASCII.");
  setKey(key);
  return true;
}

function show() {
  const isLive = location.hash === "#live";
  $("chat-view").hidden = isLive;
  $("live-view").hidden = !isLive;
  for (const [id, isHere] of [["to-live", isLive], ["to-chat", !isLive]]) {
    if (isHere) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
  showLive(isLive, askKey);
}

$("key-cancel").addEventListener("click", () => $("key-dialog").close("cancel"));
addEventListener("hashchange", show);
startChat(askKey);
show();
