// The page works without this. With it, another item is shown in place, both rankings point at the
// item under the pointer or the focus, and arrow keys walk along a ranking.
"use strict";

const main = document.querySelector("main");
let latest = 0;
let query = location.search;

async function show(address, otherwise) {
  const turn = ++latest;
  main.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(address, { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(answer.status);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (turn !== latest) return false;
    const isSameUser = fresh.getElementById("user").value === document.getElementById("user").defaultValue;
    if (!isSameUser) throw new Error("another user");
    for (const id of ["rankings", "item"]) {
      document.getElementById(id).replaceWith(document.adoptNode(fresh.getElementById(id)));
    }
    query = new URL(address).search;
    return true;
  } catch {
    otherwise();
    return false;
  } finally {
    if (turn === latest) main.removeAttribute("aria-busy");
  }
}

main.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-item]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  const address = link.href;
  const done = await show(address, () => location.assign(address));
  if (!done) return;
  history.pushState(null, "", address);
  const item = document.getElementById("item");
  item.focus({ preventScroll: true });
  item.scrollIntoView();
});

addEventListener("popstate", () => {
  if (location.search !== query) show(location.href, () => location.reload());
});

function point(target) {
  const item = target?.closest?.("a[data-item]")?.dataset.item;
  for (const link of document.querySelectorAll("a[data-item]")) {
    link.classList.toggle("twin", item !== undefined && link.dataset.item === item);
  }
}
main.addEventListener("pointerover", (event) => point(event.target));
main.addEventListener("pointerleave", () => point(null));
main.addEventListener("focusin", (event) => point(event.target));

main.addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const ranking = event.target.closest(".ranking");
  if (!step || !ranking) return;
  const links = [...ranking.querySelectorAll("a[data-item]")];
  const next = links[links.indexOf(event.target.closest("a[data-item]")) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
});
