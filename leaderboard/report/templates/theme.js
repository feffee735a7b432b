"use strict";
// Before anything is drawn: the colours that were chosen last time. A browser may refuse storage to a local file.
document.documentElement.classList.add("script");
try {
  const theme = localStorage.getItem("robustiqa-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {}
