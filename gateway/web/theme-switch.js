// The button for light or dark; see theme.js.

import { iconOf } from "./make.js";

/** Have this button change it. */
export function bindTheme(button) {
  button.append(iconOf("sun"));
  button.onclick = () => {
    const { dataset } = document.documentElement;
    dataset.theme = dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", dataset.theme);
  };
}
