// Markdown to DOM nodes. A model's words only ever become text: nothing in them is parsed as HTML, and links open the
// web or mail, no other scheme.

const DEEPEST = 12; // quotes and lists within each other; what is deeper is shown as it is written
const BLOCK_STARTS = /^( *(```|~~~)|#{1,6} |> ?|\s*([-*+]|\d{1,9}[.)]) |(-{3,}|\*{3,})\s*$)/;
const INLINE = /(`+)([\s\S]+?)\1|\*\*([\s\S]+?)\*\*|\*([^*\s][^*]*)\*|\[([^\]\n]{0,300})\]\(((?:[^()\s]|\([^()\s]*\))+)(?:\s+"[^"\n]*")?\)|(https?:\/\/(?:[^\s<>()]|\([^\s<>()]*\))+(?<![.,;:!?'"*]))/g;

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Return the text's blocks, as nodes. */
export function markdown(text, depth = 0) {
  if (depth > DEEPEST) return [element("p", {}, text)];
  const lines = text.split("\n");
  const nodes = [];
  for (let at = 0; at < lines.length; ) {
    const [node, next] = block(lines, at, depth);
    if (node) nodes.push(node);
    at = next;
  }
  return nodes;
}

function block(lines, at, depth) {
  const line = lines[at];
  const fence = line.match(/^( *)(```+|~~~+)\s*(\S*)/);
  if (fence) return codeBlock(lines, at, fence);
  const heading = line.match(/^(#{1,6}) (.*)/);
  if (heading) return [element(`h${Math.min(heading[1].length, 3)}`, {}, ...inline(heading[2])), at + 1];
  if (/^(-{3,}|\*{3,})\s*$/.test(line)) return [element("hr"), at + 1];
  if (/^> ?/.test(line)) {
    const [quoted, next] = taken(lines, at, /^> ?/);
    return [element("blockquote", {}, ...markdown(quoted.map((one) => one.replace(/^> ?/, "")).join("\n"), depth + 1)), next];
  }
  if (isTable(lines, at)) return table(lines, at);
  if (itemOf(line)) return list(lines, at, depth);
  if (!line.trim()) return [null, at + 1];
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !BLOCK_STARTS.test(lines[end]) && !isTable(lines, end)) end += 1;
  return [element("p", {}, ...inline(lines.slice(at, end).join("\n"))), end];
}

function taken(lines, at, pattern) {
  let end = at;
  while (end < lines.length && pattern.test(lines[end])) end += 1;
  return [lines.slice(at, end), end];
}

function codeBlock(lines, at, [, indent, mark, language]) {
  let end = at + 1;
  while (end < lines.length && !lines[end].trimStart().startsWith(mark)) end += 1;
  const code = dedented(lines.slice(at + 1, end), indent.length);
  const copy = element("button", { type: "button", class: "plain", onclick: () => copyText(code, copy) }, "Copy");
  const inside = element("code", { "data-language": language || undefined }, code);
  return [element("div", { class: "code" }, element("pre", { tabindex: "0" }, inside), copy), end + 1];
}

export async function copyText(text, button) {
  const label = button.textContent;
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copySelected(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here";
  }
  setTimeout(() => (button.textContent = label), 1500);
}

// over plain HTTP, from another machine, browsers offer no clipboard
function copySelected(text) {
  const field = element("textarea", { class: "hidden" });
  field.value = text;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  if (!isCopied) throw new Error("refused");
}

/** As GitHub has it: a row, then as many dashed cells. The pipes at both ends may be missing. */
function isTable(lines, at) {
  const rule = lines[at + 1] ?? "";
  if (!isRow(lines[at]) || !rule.includes("|") || !/^[\s|:-]+$/.test(rule)) return false;
  const marks = cells(rule);
  return marks.every((mark) => /^:?-+:?$/.test(mark)) && marks.length === cells(lines[at]).length;
}

function isRow(line) {
  return line.includes("|") && !BLOCK_STARTS.test(line);
}

function cells(line) {
  const inside = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inside.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function table(lines, at) {
  let end = at + 2;
  while (end < lines.length && isRow(lines[end])) end += 1;
  const row = (line, tag) => element("tr", {}, ...cells(line).map((cell) => element(tag, {}, ...inline(cell))));
  const head = element("thead", {}, row(lines[at], "th"));
  const body = element("tbody", {}, ...lines.slice(at + 2, end).map((line) => row(line, "td")));
  return [element("div", { class: "scroll", tabindex: "0" }, element("table", {}, head, body)), end];
}

function itemOf(line) {
  return line.match(/^(\s*)([-*+]|\d{1,9}[.)]) (.*)/);
}

function indentOf(line) {
  return line.length - line.trimStart().length;
}

function dedented(lines, margin) {
  return lines.map((line) => line.slice(Math.min(margin, indentOf(line)))).join("\n");
}

/** Items may hold blocks, and blank lines between them: what is indented deeper than the mark belongs to it. */
function list(lines, at, depth) {
  const [, indent, mark] = itemOf(lines[at]);
  const isOrdered = /\d/.test(mark);
  const made = element(isOrdered ? "ol" : "ul", { start: isOrdered ? parseInt(mark, 10) : undefined });
  while (at < lines.length) {
    const item = itemOf(lines[at]);
    if (!item || item[1].length !== indent.length || /\d/.test(item[2]) !== isOrdered) break;
    let end = at + 1;
    while (end < lines.length && (!lines[end].trim() || indentOf(lines[end]) > indent.length)) end += 1;
    const inner = dedented(lines.slice(at + 1, end), indent.length + item[2].length + 1);
    made.append(element("li", {}, ...inline(item[3]), ...markdown(inner, depth + 1)));
    at = end;
  }
  return [made, at];
}

function inline(text) {
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(at, match.index));
    const [whole, , code, strong, emphasis, label, target, url] = match;
    if (code !== undefined) nodes.push(element("code", {}, code));
    else if (strong !== undefined) nodes.push(element("strong", {}, ...inline(strong)));
    else if (emphasis !== undefined) nodes.push(element("em", {}, ...inline(emphasis)));
    else nodes.push(link(label ?? url, target ?? url) ?? whole);
    at = match.index + whole.length;
  }
  nodes.push(text.slice(at));
  return nodes.filter((node) => node !== "");
}

function link(label, target) {
  if (!/^(https?:\/\/|mailto:)/i.test(target)) return null;
  return element("a", { href: target, target: "_blank", rel: "noopener noreferrer" }, label);
}
