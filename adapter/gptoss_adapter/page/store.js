// Conversations and choices, kept in this browser and nowhere else.

const TALKS = "gptoss.talks";
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
    this.all.find((talk) => talk.id === id).title = title;
    this.save(false);
  }

  remove(id) {
    this.all = this.all.filter((talk) => talk.id !== id);
    if (this.current.id === id) this.current = this.all[0] ?? this.begin();
    this.save(false);
  }

  /** Keep the current conversation, as the newest. Where the browser has no room left, the oldest make some. */
  save(isNewest = true) {
    if (isNewest && this.current.messages.length) {
      this.all = [this.current, ...this.all.filter((talk) => talk !== this.current)].slice(0, MOST_TALKS);
    }
    while (!write(TALKS, this.all) && this.all.length > 1) this.all.pop();
  }
}

export const choices = {
  read: () => read(CHOICES, {}),
  write: (value) => write(CHOICES, value),
};
