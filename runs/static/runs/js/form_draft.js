// What was typed outlives an accidental reload: in this tab, until a run was started with it.

export class Draft {
  /** `name` says whose it is; forms of other agents, or begun from other runs, have their own. */
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
      this.clear();  // too much to keep: rather nothing than what is out of date
    }
  }

  clear() {
    try {
      sessionStorage.removeItem(this.key);
    } catch {
      // Storage is forbidden here: then nothing was kept.
    }
  }
}
