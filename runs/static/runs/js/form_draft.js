// Keep a form's values over an accidental reload, in this tab, until a run starts with them.

export class Draft {
  /** Each agent, and each run that is edited, has a draft of its own `name`. */
  constructor(name) {
    this.key = `halting:form:${name}`;
  }

  load() {
    try {
      return JSON.parse(sessionStorage.getItem(this.key));
    } catch {
      return null;
    }
  }

  save(value) {
    try {
      sessionStorage.setItem(this.key, JSON.stringify(value));
    } catch {
      this.clear();  // too large: an old draft would mislead
    }
  }

  clear() {
    try {
      sessionStorage.removeItem(this.key);
    } catch {
      // The browser forbids storage: there is no draft.
    }
  }
}
