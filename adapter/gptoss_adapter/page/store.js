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

function newId() {
  return crypto.randomUUID?.() ?? String(Date.now());
}

function said(talk) {
  return JSON.stringify(talk.messages);
}

export class Talks {
  #unkept = new Map(); // by id: what found no room in this browser and is here alone
  #keptAs = new WeakMap(); // by conversation: what was said in it as this tab last read or wrote it
  #isInUse;

  /** isInUse: whether the current conversation must stay the one it is, since it is answered or edited. */
  constructor(isInUse) {
    this.#isInUse = isInUse;
    this.all = read(TALKS, []);
    this.#goTo(this.all[0]);
  }

  /** Whether something here is not kept. */
  get isFull() {
    return this.#unkept.size > 0;
  }

  begin() {
    this.current = { id: newId(), title: "", messages: [] };
    return this.current;
  }

  open(id) {
    this.#goTo(this.all.find((talk) => talk.id === id) ?? this.current);
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
    if (this.current.id === id) this.#goTo(this.all[0]);
  }

  /** Keep the current conversation, as the newest. */
  save() {
    if (this.current.messages.length) this.#keepAsNewest(this.current);
  }

  /** Keep what was added to a conversation, unless it was deleted meanwhile. */
  update(changed) {
    if (this.#wentOnElsewhere(changed)) this.#keepAsNewest(changed);
    else this.#change(changed.id, (all) => all.map((talk) => (talk.id === changed.id ? changed : talk)));
  }

  /** Take over what another tab has kept, the current conversation included where it is as it was kept and not in use.
   * What found no room stays. */
  refresh() {
    const kept = read(TALKS, this.all);
    const { current } = this;
    const elsewhere = this.#wentOnElsewhere(current, kept);
    if (elsewhere && said(current) === this.#keptAs.get(current) && !this.#isInUse()) this.#goTo(elsewhere);
    if (!elsewhere && !this.#unkept.has(current.id)) current.title = kept.find((talk) => talk.id === current.id)?.title ?? current.title;
    const here = new Map(elsewhere ? this.#unkept : [...this.#unkept, [current.id, current]]);
    const known = new Set(kept.map((talk) => talk.id));
    const added = [...this.#unkept.values()].filter((talk) => !known.has(talk.id));
    this.all = [...added, ...kept.map((talk) => here.get(talk.id) ?? talk)];
  }

  // From what is kept now, not from what this tab once read: other tabs write there, too.
  #change(id, make) {
    this.refresh();
    this.all = make(this.all);
    const changed = this.all.find((talk) => talk.id === id);
    if (!write(TALKS, this.all)) return void (changed && this.#unkept.set(id, changed));
    this.#unkept.clear();
    for (const talk of this.all) if (talk === changed || talk === this.current) this.#keptAs.set(talk, said(talk));
  }

  // Under a name of its own where another tab went on with it meanwhile: neither takes from the other.
  #keepAsNewest(talk) {
    if (this.#wentOnElsewhere(talk)) {
      this.#unkept.delete(talk.id);
      talk.id = newId();
    }
    this.#change(talk.id, (all) => [talk, ...all.filter((one) => one.id !== talk.id)]);
  }

  // What is kept of a conversation, where that is not what this tab last read or wrote.
  #wentOnElsewhere(talk, kept = read(TALKS, [])) {
    const other = kept.find((one) => one.id === talk.id);
    return other && said(other) !== this.#keptAs.get(talk) ? other : undefined;
  }

  #goTo(talk) {
    if (!talk) return void this.begin();
    this.current = talk;
    if (!this.#unkept.has(talk.id)) this.#keptAs.set(talk, said(talk));
  }
}

export const choices = {
  read: () => read(CHOICES, {}),
  write: (value) => write(CHOICES, value),
};
