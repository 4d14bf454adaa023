// A question before something is changed: the browser's own dialog, which keeps the focus and knows Esc.
import { html, useEffect, useRef, useState } from "../vendor/preact.js";

/**
 * `onConfirm(values)` gets what the form's fields hold, by their names; what it throws is shown, and the dialog stays.
 * `children` are the text and the fields.
 */
export function Confirm({ title, action, danger, onConfirm, onClose, children }) {
  const box = useRef(null);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    const from = document.activeElement;
    box.current.showModal();
    return () => from?.focus?.();
  }, []);
  const confirm = async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem("");
    try {
      await onConfirm(Object.fromEntries(new FormData(event.target)));
      onClose();
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<dialog ref=${box} aria-labelledby="dialog-title" onClose=${onClose}>
    <form onSubmit=${confirm}>
      <h2 id="dialog-title">${title}</h2>
      ${children}
      ${problem && html`<p class="bad" role="alert">▲ ${problem}</p>`}
      <div class="buttons">
        <button type="button" onClick=${onClose}>Cancel</button>
        <button class=${danger ? "danger" : "main"} disabled=${busy}>${action}</button>
      </div>
    </form>
  </dialog>`;
}

/** A button that asks first; the rest is as for Confirm. */
export function Asking({ label, about, look = "", disabled, ...dialog }) {
  const [open, setOpen] = useState(false);
  const name = about ? `${label} ${about}` : undefined;
  return html`<button class=${look} aria-label=${name} disabled=${disabled} onClick=${() => setOpen(true)}>${label}</button>
    ${open && html`<${Confirm} ...${dialog} onClose=${() => setOpen(false)} />`}`;
}
