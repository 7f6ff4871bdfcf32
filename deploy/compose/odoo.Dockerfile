# Odoo with OCA's queue_job as published. openupgradelib is for its migrations.
FROM odoo:19.0
USER root
RUN pip3 install --no-cache-dir --no-deps --target /opt/oca \
        odoo-addon-queue-job==19.0.2.4.0.1 openupgradelib==3.13.7 \
    && mv /opt/oca/odoo/addons /opt/addons \
    && rm -r /opt/oca/odoo
ENV PYTHONPATH=/opt/oca
USER odoo
