// Conversations and choices, kept in this browser and nowhere else.

export const TALKS = "gptoss.talks";
const CHOICES = "gptoss.choices";

function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise; // not ours, or no storage here: begin anew
  }
}

function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

export class Talks {
  #unkept = new Map(); // by id: what found no room in this browser and is here alone

  constructor() {
    this.all = read(TALKS, []);
    this.current = this.all[0] ?? this.begin();
  }

  /** Whether something here is not kept. */
  get isFull() {
    return this.#unkept.size > 0;
  }

  begin() {
    this.current = { id: crypto.randomUUID?.() ?? String(Date.now()), title: "", messages: [] };
    return this.current;
  }

  open(id) {
    this.current = this.all.find((talk) => talk.id === id) ?? this.current;
  }

  rename(id, title) {
    this.#change(id, (all) => {
      const renamed = all.find((talk) => talk.id === id);
      if (renamed) renamed.title = title;
      return all;
    });
  }

  remove(id) {
    this.#unkept.delete(id);
    // first from what is kept: less finds room even where the rest does not
    write(TALKS, read(TALKS, []).filter((talk) => talk.id !== id));
    this.#change(id, (all) => all.filter((talk) => talk.id !== id));
    if (this.current.id === id) this.current = this.all[0] ?? this.begin();
  }

  /** Keep the current conversation, as the newest. */
  save() {
    const { current } = this;
    if (current.messages.length) this.#change(current.id, (all) => [current, ...all.filter((talk) => talk.id !== current.id)]);
  }

  /** Keep what was added to a conversation, unless it was deleted meanwhile. */
  update(changed) {
    this.#change(changed.id, (all) => all.map((talk) => (talk.id === changed.id ? changed : talk)));
  }

  /** Take over what another tab has kept. The current conversation stays as it is here, and so does what found no room. */
  refresh() {
    const here = new Map([...this.#unkept, [this.current.id, this.current]]);
    const kept = read(TALKS, this.all);
    const known = new Set(kept.map((talk) => talk.id));
    const added = [...this.#unkept.values()].filter((talk) => !known.has(talk.id));
    this.all = [...added, ...kept.map((talk) => here.get(talk.id) ?? talk)];
  }

  // From what is kept now, not from what this tab once read: other tabs write there, too.
  #change(id, make) {
    this.refresh();
    this.all = make(this.all);
    const changed = this.all.find((talk) => talk.id === id);
    if (write(TALKS, this.all)) this.#unkept.clear();
    else if (changed) this.#unkept.set(id, changed);
  }
}

export const choices = {
  read: () => read(CHOICES, {}),
  write: (value) => write(CHOICES, value),
};
