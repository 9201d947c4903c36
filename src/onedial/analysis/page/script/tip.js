// The one tooltip of the page, for bars and lines, by mouse and by keyboard.

const tip = make("div", { class: "tip", role: "status" });

function showTip(event, title, lines) {
  tip.replaceChildren(make("b", {}, title), ...lines.map((line) => make("div", {}, line)));
  tip.style.display = "block";
  tip.dataset.by = event.type;
  const box = tip.getBoundingClientRect(), target = event.target.getBoundingClientRect();
  const [x, y] = event.type === "focus" ? [target.left + target.width / 2, target.top + 20] : [event.clientX, event.clientY];
  tip.style.left = Math.max(6, Math.min(innerWidth - box.width - 6, x + 14)) + "px";
  tip.style.top = Math.max(6, y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18) + "px";
}

function hideTip() { tip.style.display = "none"; }

// Focus by keyboard scrolls the bar into view: that must not take its tip away.
addEventListener("scroll", () => { if (tip.dataset.by !== "focus") hideTip(); }, { passive: true });
