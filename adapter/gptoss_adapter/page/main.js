// Which view is shown, and the key where the server asks for one.

import { setKey } from "./api.js";
import { startChat } from "./chat.js";
import { showLive } from "./live.js";

const $ = (id) => document.getElementById(id);
let asking = null;

/** Ask for a key. Resolves to whether one was given. Two that ask at once share the question. */
function askKey(reason) {
  asking ??= new Promise((resolve) => {
    $("key-reason").textContent = reason;
    $("key").value = "";
    $("key-dialog").returnValue = "";
    $("key-dialog").addEventListener("close", () => {
      asking = null;
      const isGiven = $("key-dialog").returnValue === "ok" && $("key").value.trim() !== "";
      if (isGiven) setKey($("key").value.trim());
      resolve(isGiven);
    }, { once: true });
    $("key-dialog").showModal();
  });
  return asking;
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
