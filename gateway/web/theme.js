// Light or dark, before anything is painted: as the system has it, unless somebody chose. And a word for browsers that are
// too old for the other scripts.

(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // the browser keeps nothing
    }
  };
  const apply = () => {
    root.dataset.theme = chosen() ?? (system.matches ? "dark" : "light");
  };
  apply();
  system.onchange = apply;
  const isOld = !("groupBy" in Map && "toSorted" in Array.prototype);
  addEventListener("DOMContentLoaded", () => {
    const place = isOld && document.querySelector("#notice, #state");
    if (place) place.textContent = "This browser is too old for this page: please use one from 2024 or later.";
  });
})();
