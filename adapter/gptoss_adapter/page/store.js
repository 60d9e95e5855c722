// Conversations and choices, kept in this browser and nowhere else.

export const TALKS = "gptoss.talks";
const CHOICES = "gptoss.choices";
const MOST_TALKS = 50;

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
  constructor() {
    this.all = read(TALKS, []);
    this.current = this.all[0] ?? this.begin();
  }

  begin() {
    this.current = { id: crypto.randomUUID?.() ?? String(Date.now()), title: "", messages: [] };
    return this.current;
  }

  open(id) {
    this.current = this.all.find((talk) => talk.id === id) ?? this.current;
  }

  rename(id, title) {
    this.#change((all) => {
      const renamed = all.find((talk) => talk.id === id);
      if (renamed) renamed.title = title;
      return all;
    });
  }

  remove(id) {
    this.#change((all) => all.filter((talk) => talk.id !== id));
    if (this.current.id === id) this.current = this.all[0] ?? this.begin();
  }

  /** Keep the current conversation, as the newest. */
  save() {
    const { current } = this;
    if (current.messages.length) this.#change((all) => [current, ...all.filter((talk) => talk.id !== current.id)].slice(0, MOST_TALKS));
  }

  /** Keep what was added to a conversation, unless it was deleted meanwhile. */
  update(changed) {
    this.#change((all) => all.map((talk) => (talk.id === changed.id ? changed : talk)));
  }

  /** Take over what another tab has kept. The current conversation stays as it is here. */
  refresh() {
    this.all = read(TALKS, this.all).map((talk) => (talk.id === this.current.id ? this.current : talk));
  }

  // From what is kept now, not from what this tab once read: other tabs write there, too.
  #change(make) {
    this.refresh();
    this.all = make(this.all);
    // no room left in this browser: the oldest make some
    while (!write(TALKS, this.all) && this.all.length > 1) this.all.pop();
  }
}

export const choices = {
  read: () => read(CHOICES, {}),
  write: (value) => write(CHOICES, value),
};
