// Tabs by the ARIA pattern. The address names the open one, for a reload and for sharing.

/** Make `list` ([role=tablist]) work; `onShow(name)` is called when a panel opens. */
export function openTabs(list, onShow) {
  const tabs = [...list.querySelectorAll("[role=tab]")];

  function select(tab, { focus = false, remember = true } = {}) {
    for (const one of tabs) {
      const isSelected = one === tab;
      one.setAttribute("aria-selected", String(isSelected));
      one.tabIndex = isSelected ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = !isSelected;
    }
    if (focus) tab.focus();
    // Setting location.hash would scroll, and fill the history.
    if (remember) history.replaceState(history.state, "", `#${nameOf(tab)}`);
    onShow(nameOf(tab));
  }

  function selectByAddress() {
    const named = tabs.find((tab) => `#${nameOf(tab)}` === location.hash);
    select(named ?? tabs[0], { remember: false });
  }

  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) select(tab);
  });
  list.addEventListener("keydown", (event) => {
    const index = tabs.indexOf(document.activeElement);
    const next = {
      ArrowRight: (index + 1) % tabs.length,
      ArrowLeft: (index - 1 + tabs.length) % tabs.length,
      Home: 0,
      End: tabs.length - 1,
    }[event.key];
    if (index < 0 || next === undefined) return;
    event.preventDefault();
    select(tabs[next], { focus: true });
  });
  window.addEventListener("hashchange", selectByAddress);
  selectByAddress();
}

const nameOf = (tab) => tab.id.replace(/^tab-/, "");
